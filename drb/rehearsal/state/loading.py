"""What a rehearsal goes on from: one rank's saved state, or those of all ranks there were, checked and made its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from drb.buffer.record import RecordSpec
from drb.rehearsal.memory import own_capacity
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.check import FORMAT, check_state, require_format
from drb.rehearsal.state.reshard import reshard
from drb.types import OwnerOf

State: TypeAlias = Mapping[str, Any]
SavedState: TypeAlias = State | Sequence[State]  # one rank's, or those of all ranks there were, by rank


def kind_of_state(settings: RehearsalSettings, world_size: int) -> dict[str, Any]:
    """What a state says of itself."""
    return {"format": FORMAT, "world_size": world_size, "settings": settings.fixed_by_state()}


def own_state(
    saved: SavedState,
    owner_of: OwnerOf | None,
    settings: RehearsalSettings,
    spec: RecordSpec | None,
    rank: int,
    world_size: int,
) -> State:
    """The state that `rank` of `world_size` goes on from, resharded if `saved` are those of another number of ranks.

    spec: what the schema must be, if that is known.

    Raises:
        ValueError: states of another format, other settings, another schema, or not of all ranks.
    """
    states = _as_list(saved)
    for state in states:
        _check(state, settings, spec)
    if not isinstance(saved, Mapping) and len(states) != world_size:
        capacity = 0
        if "spec" in states[0]:  # not saved before the first minibatch
            capacity = own_capacity(settings, spec_of(states[0]), rank, world_size)
        return reshard(states, rank, world_size, owner_of, capacity)
    own = states[rank if len(states) > 1 else 0]
    if own.get("world_size", world_size) != world_size:
        raise ValueError(
            f"this is the state of one of {own['world_size']} ranks, this rehearsal has {world_size}: give "
            "load_state_dict the states of all of them, as a list by rank"
        )
    return own


def _as_list(saved: SavedState) -> list[State]:
    if isinstance(saved, Mapping):
        return [saved]
    if isinstance(saved, (list, tuple)) and saved:
        return list(saved)
    raise ValueError(f"a rehearsal state is what state_dict() gave, or a list of them by rank; got {saved!r:.60}")


def spec_of(state: State) -> RecordSpec:
    return RecordSpec.from_json(json.loads(state["spec"]))


def _check(state: State, settings: RehearsalSettings, spec: RecordSpec | None) -> None:
    if not isinstance(state, Mapping):
        raise ValueError(f"a rehearsal state is what state_dict() gave, got a {type(state).__name__}")
    require_format(state)
    if "spec" not in state:
        return
    saved = check_state(state).to_json()
    settings.require_saved(state["settings"])
    if spec is not None and spec.to_json() != saved:
        raise ValueError(f"the saved schema is {saved}, spec= says {spec.to_json()}")
