"""What a run says about the exemplars on all ranks at a task's end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from drb.distributed.world import World

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal

_ALLOWED_DUPLICATES = 0.01


def refuse_duplicates(share: float, task_index: int) -> None:
    """Check the share of exemplars that are stored more than once.

    Raises:
        ValueError: more than 1 % of all exemplars are stored more than once.
    """
    if share > _ALLOWED_DUPLICATES:
        raise ValueError(
            f"{share:.1%} of all exemplars are stored more than once after task {task_index}, at most "
            f"{_ALLOWED_DUPLICATES:.0%} is allowed: give every sample id one owner (drb.OwnerSampler) "
            "or set rehearsal.allow_duplicates=true"
        )


def total_counts(rehearsal: Rehearsal, world: World) -> dict[str, int]:
    """Exemplars of each stratum on all ranks together, keys as JSON has them. Collective."""
    per_rank: list[Any] = [rehearsal.counts()]
    if world.world_size > 1:
        own, per_rank = per_rank[0], [None] * world.world_size
        dist.all_gather_object(per_rank, own)
    counts: Counter[int] = sum(map(Counter, per_rank), Counter())
    return {str(stratum): counts[stratum] for stratum in sorted(counts)}
