"""Whether a stream can be trained on by so many ranks, looked at before the first step: all labels are known then."""

from __future__ import annotations

import zlib
from itertools import islice

import numpy as np

from drb.data.ids import first_repeated
from drb.data.scenarios.task import Scenario, Task

_TASKS_AT_MOST = 1000  # of a stream without end
_IDS_AT_MOST = 20_000_000  # that are compared: a second, and 160 MB for that time


def check_stream(scenario: Scenario, world_size: int) -> None:
    """Go through the tasks of a stream, without reading any samples.

    Raises:
        ValueError: naming the first task that has fewer training samples than there are ranks, or nothing to test, or a
            sample id that occurred before.
    """
    tasks: list[Task] = []
    for task in islice(scenario, _TASKS_AT_MOST):
        name = str(task)
        if len(task.train) < world_size:
            raise ValueError(
                f"{name} has {len(task.train)} training samples for {world_size} ranks, each of which needs at least "
                "one; use fewer ranks, or tasks with more samples"
            )
        if not len(task.test):
            raise ValueError(f"{name} has no test images; add some, or leave its classes out")
        tasks.append(task)
    _require_own_ids(tasks)


def composition_of(scenario: Scenario) -> list[list[str]]:
    """Name and hash of the labels of each task: what a task is made of, apart from its samples.

    Of a mixed task also how many samples each source has, of which its order is a formula.
    """
    return [
        [task.name, f"{zlib.crc32(np.array(task.classes, np.int64).tobytes()):08x}", *_counts(task)]
        for task in islice(scenario, _TASKS_AT_MOST)
    ]


def _counts(task: Task) -> list[str]:
    return [] if task.mix is None else [", ".join(f"{each.name} {each.count}" for each in task.mix.sources)]


def _require_own_ids(tasks: list[Task]) -> None:
    """Raise ValueError if two training samples of the stream have the same id."""
    total, compared = 0, []
    for task in tasks:
        total += len(task.train)
        if total > _IDS_AT_MOST:
            break
        compared.append(task)
    ids = np.concatenate([np.empty(0, np.int64), *(task.train.sample_ids for task in compared)])
    if (pair := first_repeated(ids)) is None:
        return
    ends = np.cumsum([len(task.train) for task in compared])
    first, second = (compared[int(np.searchsorted(ends, place, side="right"))] for place in pair)
    where = str(first) if first is second else f"{first} and {second}"
    raise ValueError(
        f"two training samples of {where} have the sample id {ids[pair[0]]}: they would count as one; give each sample "
        "of the stream an id of its own"
    )
