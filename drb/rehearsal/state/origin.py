"""Whose a saved state is: of which rank, of how many, in which group and run. A state handed to another is refused.

Callbacks of training libraries save on rank 0 and load on every rank; two folders of checkpoints are mixed up; a rank
finds an older checkpoint than the others. Each would train on, with exemplars stored twice or lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

import torch
import torch.distributed as dist

from drb.types import Minibatch

State = Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """Whose a state is.

    rank, world_size: in the rehearsal's group. group: its members' ranks in the default group, [0] without one.
    run: a hash of what the ranks began with, alike on all of them and kept for good; "" before the first minibatch.
    """

    rank: int = 0
    world_size: int = 1
    group: tuple[int, ...] = (0,)
    run: str = ""

    def to_state(self) -> dict[str, Any]:
        return asdict(self) | {"group": list(self.group)}

    def began(self, saved: State, starts: Sequence[str]) -> Origin:
        """With the run that `saved` is of, or the one that begins with these starts of the ranks."""
        run = saved.get("run") or blake2b("\n".join(starts).encode(), digest_size=8).hexdigest()
        return replace(self, run=run)


def group_of(process_group: dist.ProcessGroup | None) -> list[int]:
    """The members' ranks in the default group; [0] without one."""
    return dist.get_process_group_ranks(process_group) if dist.is_initialized() else [0]


def start_of(minibatch: Minibatch, seed: int, sample_id: str | None) -> str:
    """A hash of what a rank's run begins with: its seed and first minibatch, by the ids if it has any."""
    values = minibatch[sample_id] if sample_id is not None else next(iter(minibatch.values()))
    values = values.detach().cpu()
    content = (values.float() if values.dtype == torch.bfloat16 else values).numpy().tobytes()
    return f"{seed} {blake2b(content, digest_size=8).hexdigest()}"


def require_own(state: State, origin: Origin) -> None:
    """Raise ValueError unless this is a state of this rank of as many ranks of the same group."""
    if state["world_size"] != origin.world_size:
        raise ValueError(
            f"this is the state of one of {state['world_size']} ranks, this rehearsal has {origin.world_size}: give "
            "load_state_dict the states of all of them, as a list by rank"
        )
    if state["rank"] != origin.rank:
        raise ValueError(
            f"this is the state of rank {state['rank']} and this is rank {origin.rank}: save the state of every rank "
            "and give each its own, or give load_state_dict all of them, as a list by rank"
        )
    if list(state["group"]) != list(origin.group):
        raise ValueError(
            f"this is a state of the process group of ranks {list(state['group'])}, and this rehearsal's group has the "
            f"ranks {list(origin.group)}: give each group its own states"
        )


def require_by_rank(states: Sequence[State]) -> None:
    """Raise ValueError unless these are the states of ranks 0, 1, … of one run, all of them."""
    saved = states[0]["world_size"]
    if saved != len(states):
        raise ValueError(f"these are {len(states)} states of {saved} ranks; give those of all of them, by rank")
    ranks = [state["rank"] for state in states]
    if ranks != list(range(len(states))):
        raise ValueError(f"these are the states of ranks {ranks}; give those of all ranks, by rank: each one once")
    for rank, state in enumerate(states):
        for what in ("run", "group", "round"):
            if state[what] != states[0][what]:
                raise ValueError(
                    f"the states of ranks 0 and {rank} are of different {what}s, {states[0][what]} and {state[what]}; "
                    "give those of all ranks of one run, saved after the same step"
                )


def require_one_moment(resumed: Sequence[Sequence[Any]]) -> None:
    """Raise ValueError unless all ranks go on from one run's states of one step. resumed: [run, step] of each rank."""
    for rank, (run, step) in enumerate(resumed):
        if [run, step] != list(resumed[0]):
            raise ValueError(
                f"the ranks go on from different states: rank 0 from {_named(*resumed[0])}, rank {rank} from "
                f"{_named(run, step)}; give each rank its own state, saved by the same run after the same step"
            )


def _named(run: str, step: int) -> str:
    return f"run {run} after step {step}" if run else "none"
