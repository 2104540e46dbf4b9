"""What a rehearsal goes on from: one rank's saved state, or those of all ranks there were, checked and made its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from drb.buffer.record import RecordSpec
from drb.rehearsal.memory import own_capacity
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.check import FORMAT, check_state, naming_damage, require_format, spec_in
from drb.rehearsal.state.origin import Origin, require_by_rank, require_own
from drb.rehearsal.state.reshard import reshard
from drb.rehearsal.state.widening import widened
from drb.types import OwnerOf

State: TypeAlias = Mapping[str, Any]
SavedState: TypeAlias = State | Sequence[State]  # one rank's, or those of all ranks there were, by rank


def kind_of_state(settings: RehearsalSettings, origin: Origin) -> dict[str, Any]:
    """What a state says of itself."""
    return {"format": FORMAT, **origin.to_state(), "settings": settings.fixed_by_state()}


def own_state(
    saved: SavedState,
    owner_of: OwnerOf | None,
    settings: RehearsalSettings,
    spec: RecordSpec | None,
    origin: Origin,
    anew: bool = False,
) -> State:
    """The state that this rank goes on from, resharded if `saved` are those of another number of ranks.

    Args:
        spec: the schema to go on with, if that is known: the saved one, or one that widens it.
        origin: this rank and its group.
        anew: reshard also for as many ranks, whose owners may have changed.
    Raises:
        ValueError: states of another format, other settings, another schema, or not of all ranks; another rank's.
    """
    states = _as_list(saved)
    for state in states:
        _require_state(state)
    is_list, is_begun = not isinstance(saved, Mapping), "spec" in states[0]  # else: before the first minibatch
    if is_begun and is_list:
        require_by_rank(states)
    resharded = is_list and (anew or len(states) != origin.world_size)
    number = origin.rank if is_list and not resharded else 0
    if is_begun and not resharded:
        require_own(states[number], origin)
    states = [_checked(state, settings, spec) for state in states]
    own = states[number]
    if not resharded:
        return own
    capacity = own_capacity(settings, spec_in(own), origin.rank, origin.world_size) if is_begun else 0
    moved = reshard(states, origin.rank, origin.world_size, owner_of, capacity)
    return {**moved, **replace(origin, run=own.get("run", "")).to_state()}


def _as_list(saved: SavedState) -> list[State]:
    if isinstance(saved, Mapping):
        return [saved]
    if isinstance(saved, (list, tuple)) and saved:
        return list(saved)
    raise ValueError(f"a rehearsal state is what state_dict() gave, or a list of them by rank; got {saved!r:.60}")


def _require_state(state: State) -> None:
    """Raise ValueError unless this is a state of this format that says whose it is."""
    if not isinstance(state, Mapping):
        raise ValueError(f"a rehearsal state is what state_dict() gave, got a {type(state).__name__}")
    require_format(state)
    if "spec" not in state:
        return
    with naming_damage():
        rank, world_size, group, run = (state[name] for name in ("rank", "world_size", "group", "run"))
        if not (isinstance(run, str) and 0 <= rank < world_size == len(group)):
            raise ValueError(f"the rehearsal state is damaged: rank {rank} of {world_size} in the group {group}")


def _checked(state: State, settings: RehearsalSettings, spec: RecordSpec | None) -> State:
    """Return a state that these settings can go on from, with records of the schema `spec`; None: as they are."""
    if "spec" not in state:
        return state
    saved = check_state(state)
    settings.require_saved(state["settings"])
    return state if spec is None else widened(state, saved, spec)
