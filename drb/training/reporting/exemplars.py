"""What a run says about the exemplars on all ranks at a task's end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from drb.distributed.agreement import gather_json
from drb.distributed.reduction import sum_over_ranks
from drb.distributed.world import World

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal

_ALLOWED_DUPLICATES = 0.01
AGE_BINS = 20  # of a stream's minibatches so far


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


def stored_when(rehearsal: Rehearsal, world: World) -> list[int]:
    """Exemplars on all ranks together by when they were stored: one number per twentieth of the stream so far.

    The first number counts the oldest exemplars. Collective.
    """
    minibatches = rehearsal.stats().get("minibatches", 0)
    bins = (minibatches - 1 - rehearsal.ages()) * AGE_BINS // max(1, minibatches)
    own = torch.from_numpy(np.bincount(bins, minlength=AGE_BINS))
    return [int(count) for count in sum_over_ranks([own], world)[0]]
