"""A run that goes on with another number of ranks: each rank's own part of the state, from those there were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from drb.data.datasets import Source
from drb.data.ownership import OwnerTable, owners
from drb.distributed.world import World
from drb.seeding import derive_seed
from drb.training.optimizers import OptimizerBuilder
from drb.training.settings import TrainingSettings
from drb.types import OwnerOf

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal


def own_part(states: Sequence[Mapping[str, Any]], rank: int) -> dict[str, Any]:
    """`statistics`, `loss_sum`, `cost`, `augmentation` and `random` of one of the new ranks.

    Running statistics, the loss since the last logged point and the cost are the means of the old ranks', so that
    averages over ranks stay what they were. A rank that was not there has no random generators yet: None.
    """
    before = states[rank] if rank < len(states) else {"augmentation": None, "random": None}
    return {
        "statistics": _mean([state["statistics"] for state in states]),
        **{name: torch.stack([state[name] for state in states]).mean(0) for name in ("loss_sum", "cost")},
        "augmentation": before["augmentation"],
        "random": before["random"],
    }


def deal_exemplars(
    rehearsal: Rehearsal | None, states: Sequence[Mapping[str, Any]], tasks: Sequence[Source], world: World, seed: int
) -> tuple[int, int] | None:
    """Every exemplar to its new owner; how many were dropped, of how many. Collective. states: of all old ranks."""
    if rehearsal is None:
        return None
    owner_of = owner_of_stream(tasks, world.world_size, seed)
    rehearsal.load_state_dict([state["rehearsal"] for state in states], owner_of, reshard=True)
    resharded = rehearsal.resharded
    if resharded is None:
        return None
    dropped = torch.tensor(resharded["dropped"], device=world.device)
    if world.world_size > 1:
        dist.all_reduce(dropped)
    return int(dropped), resharded["stored"]


def owner_of_stream(tasks: Sequence[Source], world_size: int, seed: int) -> OwnerOf:
    """Whose each sample of these tasks (0, 1, …) is, as `TaskLoader` deals them. seed: of the run.

    Exemplars of files that are gone are spread over the ranks.
    """
    ids = [task.sample_ids for task in tasks]
    ranks = [owners(len(task), world_size, loader_seed(seed, index)) for index, task in enumerate(tasks)]
    nothing = np.empty(0, np.int64)
    table = OwnerTable(np.concatenate([nothing, *ids]), np.concatenate([nothing, *ranks]), strangers=world_size)
    return table.owner_of


def loader_seed(seed: int, task: int) -> int:
    """What decides a task's owners and orders."""
    return derive_seed(seed, "loader", task)


def describe_change(
    before: int, now: int, training: TrainingSettings, optimizer: OptimizerBuilder, exemplars: tuple[int, int] | None
) -> str:
    """One line: what another number of ranks changes. exemplars: dropped, of how many that were stored."""
    batches = [world_size * training.rows_per_rank(world_size) * training.accumulate for world_size in (before, now)]
    rates = [optimizer.scaled_rate(world_size) for world_size in (before, now)]
    changes = [_change("global batch", *batches), _change("learning rate", *rates)]
    if exemplars is not None:
        changes.append(f"{exemplars[0]} of {exemplars[1]} exemplars dropped")
    return f"resumed on {now} rank{'s'[: now > 1]} from {before}: {', '.join(changes)}"


def _change(name: str, before: float, now: float) -> str:
    return f"{name} {before:g}" + ("" if now == before else f" → {now:g}")


def _mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The means by name; counters, which are whole numbers, are the same on all ranks."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
