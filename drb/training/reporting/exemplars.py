"""What a run says about the exemplars on all ranks at a task's end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from drb.distributed.agreement import gather_json
from drb.distributed.world import World

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal

_ALLOWED_DUPLICATES = 0.01


def refuse_duplicates(share: float, task: int) -> None:
    """Check the share of exemplars that are stored more than once after a task, which counts from 1.

    Raises:
        ValueError: more than 1 % of all exemplars are stored more than once.
    """
    if share > _ALLOWED_DUPLICATES:
        raise ValueError(
            f"{share:.1%} of all exemplars are stored more than once after task {task}, at most "
            f"{_ALLOWED_DUPLICATES:.0%} is allowed: give every sample id one owner (drb.OwnerSampler) "
            "or set rehearsal.allow_duplicates=true"
        )


def total_counts(rehearsal: Rehearsal, world: World) -> dict[str, int]:
    """Exemplars of each stratum on all ranks together, keys as JSON has them. Collective."""
    own = list(rehearsal.counts().items())
    per_rank = gather_json(own) if world.world_size > 1 else [own]
    counts: Counter[int] = sum((Counter(dict(pairs)) for pairs in per_rank), Counter())
    return {str(stratum): counts[stratum] for stratum in sorted(counts)}
