"""What a stream is made of: tasks, produced one at a time when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from drb.data.datasets import Source
from drb.seeding import permutation
from drb.types import Int64Array


@dataclass(frozen=True)
class Task:
    """One stretch of the stream.

    index counts from 0; train, test and validation (held out of train) are disjoint in samples, and train's
    sample ids occur in no other task. classes are the labels that occur in it.
    """

    index: int
    name: str
    train: Source
    test: Source
    validation: Source | None
    classes: tuple[int, ...]


class Scenario(Protocol):
    """Iterate to get the stream; it may be endless, nobody asks for its length, and iterating again repeats it.

    task_aware: the task is known at test time and minibatches carry `task`.
    """

    @property
    def task_aware(self) -> bool: ...

    def __iter__(self) -> Iterator[Task]: ...


def hold_out(num_samples: int, fraction: float, seed: int, task: int) -> tuple[Int64Array, Int64Array]:
    """Positions to train on and to validate on: disjoint, sorted, together range(num_samples).

    A fraction above 0 holds out at least one sample and leaves at least one.
    """
    order = permutation(num_samples, seed, "validation", task)
    count = 0 if fraction == 0 else min(max(1, round(fraction * num_samples)), num_samples - 1)
    order[:count].sort()
    order[count:].sort()
    return order[count:], order[:count]


def check_fraction(validation: float) -> float:
    """The share of each task's training samples to hold out, in [0, 1)."""
    if not 0 <= validation < 1:
        raise ValueError(f"validation is the share of the training samples held out, in [0, 1), got {validation}")
    return validation
