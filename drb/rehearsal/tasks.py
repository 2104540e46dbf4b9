"""Which task of a stream has begun, for what follows tasks: `Rehearsal.begin_task`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from drb.exchange import Peers
from drb.rehearsal.settings import RehearsalSettings
from drb.sampling.proportions.base import History
from drb.variant import name_of


@dataclass(frozen=True)
class BegunTask:
    """A task that has begun. index: its number, from 0 on.

    accuracies: of task j after task i on held-out samples, [i][j] with j ≤ i, each finite; or nothing.
    """

    index: int
    accuracies: History = ()

    @classmethod
    def of(cls, index: int, accuracies: Sequence[Sequence[float]], settings: RehearsalSettings) -> BegunTask:
        """Return the task, for a rehearsal with these settings.

        Raises:
            ValueError: the index is no whole number of at least 0, or these are not the accuracies of so many tasks,
                in [0, 1], where the settings' proportions need them.
        """
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ValueError(f"begin_task() takes the number of the task, counted from 0, got {index!r}")
        rows = tuple(tuple(float(value) for value in row) for row in accuracies)
        if settings.shares.needs_accuracies and len(rows) != index:
            raise ValueError(
                f"proportions={name_of(settings.shares)} chooses by the accuracies after each of the {index} tasks "
                f"before task {index + 1}, and begin_task() was given those after {len(rows)}"
            )
        for number, row in enumerate(rows):
            if len(row) != number + 1 or not all(map(math.isfinite, row)):
                raise ValueError(
                    f"begin_task() takes a list of {number + 1} accuracies after task {number + 1}, one for each task "
                    f"so far, got {list(row)}"
                )
        outside = [value for row in rows for value in row if not 0 <= value <= 1]
        if settings.shares.needs_accuracies and outside:
            raise ValueError(
                f"proportions={name_of(settings.shares)} chooses by accuracies in [0, 1], and begin_task() was given "
                f"{outside[0]:g}; divide percentages by 100"
            )
        return cls(index, rows)

    @classmethod
    def of_json(cls, text: object) -> BegunTask:
        """Return the task that `to_json` gave as text. Raises ValueError for anything else."""
        try:
            index, rows = json.loads(text)  # type: ignore[arg-type]
            accuracies = tuple(tuple(map(float, row)) for row in rows)
            lengths = [len(row) for row in accuracies]
            if type(index) is int and index >= 0 and lengths == list(range(1, len(lengths) + 1)):
                return cls(index, accuracies)
        except (TypeError, ValueError):
            pass
        raise ValueError("the rehearsal state is damaged: its task is invalid")

    def to_json(self) -> str:
        """The same as text; equal tasks give equal texts."""
        return json.dumps([self.index, self.accuracies])


def agreed_task(
    index: int, accuracies: Sequence[Sequence[float]], settings: RehearsalSettings, peers: Peers | None
) -> BegunTask:
    """Return the task that all ranks say has begun. Collective over peers (None: one rank).

    Raises:
        ValueError: the ranks differ, or one of them is given what `BegunTask.of` refuses; on all ranks.
    """
    task, problem = None, ""
    try:
        task = BegunTask.of(index, accuracies, settings)
    except ValueError as error:
        problem = str(error)
    told = [problem, "" if task is None else task.to_json()]
    ranks = [told] if peers is None else peers.gather_json(told, "begin_task")
    for rank, (theirs, text) in enumerate(ranks):
        if theirs:
            raise ValueError(theirs)
        if text != ranks[0][1]:
            raise ValueError(
                f"the ranks begin different tasks: rank 0 says {ranks[0][1]}, rank {rank} says {text}; give all the "
                "same number and accuracies"
            )
    assert task is not None
    return task
