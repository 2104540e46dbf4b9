"""Admission policies: which offered samples a rehearsal buffer stores, and in whose place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drb.admission.base import NOTHING, Admission, Columns, Decision, Gathered, Offer, State
from drb.admission.class_balanced import ClassBalanced
from drb.admission.fifo import Fifo
from drb.admission.random_replacement import RandomReplacement
from drb.admission.reservoir import KeyedReservoir
from drb.types import Int64Array

_POLICIES: dict[str, Any] = {
    "reservoir": KeyedReservoir,
    "class_balanced": ClassBalanced,
    "random_replacement": RandomReplacement,
    "fifo": Fifo,
}
ADMISSIONS = tuple(_POLICIES)


def build_admission(name: str, *, candidates: int | None, seed: int, rank: int) -> Admission:
    """The policy of that name. candidates (c per minibatch) belongs to random_replacement alone."""
    if name not in ADMISSIONS:
        raise ValueError(f"admission must be one of {', '.join(ADMISSIONS)}; got {name!r}")
    if name == "random_replacement":
        if candidates is None:
            raise ValueError("admission=random_replacement needs candidates (the paper's c), for example 14")
        return RandomReplacement(candidates, seed, rank)
    if candidates is not None:
        raise ValueError(f"candidates={candidates} has no meaning for admission={name}; only for random_replacement")
    policy: Admission = _POLICIES[name]()
    return policy


def reshard_admission(
    name: str, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
) -> tuple[Int64Array, State]:
    """`Admission.reshard` of the policy of that name."""
    reshard: Callable[..., tuple[Int64Array, State]] = _POLICIES[name].reshard
    return reshard(gathered, states, capacity)


__all__ = [
    "ADMISSIONS",
    "NOTHING",
    "Admission",
    "ClassBalanced",
    "Columns",
    "Decision",
    "Fifo",
    "Gathered",
    "KeyedReservoir",
    "Offer",
    "RandomReplacement",
    "build_admission",
    "reshard_admission",
]
