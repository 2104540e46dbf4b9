"""Storage at task ends: exemplars are chosen when a task has ended, not while it is trained.

While a task is trained, all exemplars are then those of earlier tasks, and none of its own rows takes their place in
the buffer or in the draws. That is the replay of libraries that keep a task's data until its end (Avalanche's
`ClassBalancedBuffer`); a task's data is read twice more for it.

At a task's end classes share the room of all ranks evenly, and each keeps the samples with the smallest keys, those of
the class-balanced reservoir. So the exemplars of a class are a uniform sample of it, the same on any number of ranks.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from drb.buffer.admission.class_balanced import level_quotas
from drb.seeding import sample_keys
from drb.training.method.needs import Needs
from drb.training.method.tasks import FinishedTask
from drb.training.terms.term import Term
from drb.types import Int64Array, UInt64Array


class TaskEndStorage(Term):
    """Store exemplars at the end of each task only: equally many of each class, at random.

    It needs `rehearsal.admission=closed`, and with `der` or `derpp`, which compare stored outputs, the term
    `logit_refresh` listed after it.
    """

    name = "task_end_storage"
    claims: ClassVar[frozenset[str]] = frozenset({"admission"})

    def needs(self) -> Needs:
        return Needs(admission="closed", classes=True)

    def end_task(self, task: FinishedTask) -> None:
        of_class, capacity = task.objective.require_classes(), task.capacity
        with task.edit() as edit:
            assert task.rehearsal is not None
            seed, stored = task.rehearsal.settings.seed, list(edit.stored(of_class))
            ranked = [_ranked(part.fields[of_class], part.key) for part in stored]
            for _, fields in task.batches():
                ranked.append(_ranked(fields[of_class].cpu(), _keys(fields["sample_id"], seed)))
            last = _last_kept(task, torch.cat(ranked), capacity)
            beyond = [part.sample_id[~_is_kept(part.fields[of_class], part.key, last)] for part in stored]
            if beyond:
                edit.remove(torch.cat(beyond))
            for _, fields in task.batches():
                kept = _is_kept(fields[of_class].cpu(), _keys(fields["sample_id"], seed), last)
                edit.insert({name: value[kept.to(value.device)] for name, value in fields.items()})


def _last_kept(task: FinishedTask, own: Tensor, capacity: int) -> dict[int, int]:
    """For each class the largest rank of a key that is kept, of all ranks' samples. Collective.

    own: classes and ranks of keys of this rank's samples, int64 [n, 2].
    """
    everyone = np.unique(task.gather(own.to(task.world.device)).cpu().numpy(), axis=0)  # by class, then by key
    classes, first, counts = np.unique(everyone[:, 0], return_index=True, return_counts=True)
    quotas = level_quotas(counts, min(capacity, len(everyone)))
    return {
        int(label): int(everyone[start + quota - 1, 1]) if quota else -1
        for label, start, quota in zip(classes, first, quotas, strict=True)
    }


def _is_kept(classes: Tensor, keys: UInt64Array, last: dict[int, int]) -> Tensor:
    limits = torch.tensor([last[label] for label in classes.tolist()], dtype=torch.int64)
    return torch.from_numpy(_rank_of(keys)) <= limits


def _ranked(classes: Tensor, keys: UInt64Array) -> Tensor:
    return torch.stack((classes.long(), torch.from_numpy(_rank_of(keys))), dim=1)


def _keys(sample_ids: Tensor, seed: int) -> UInt64Array:
    return sample_keys(sample_ids.cpu().numpy(), seed)


def _rank_of(keys: UInt64Array) -> Int64Array:
    """Keys as integers that a tensor can hold, in the same order."""
    return (keys >> np.uint64(1)).view(np.int64)
