"""Admission policies: which offered samples a rehearsal buffer stores, and in whose place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drb.buffer.admission.base import NOTHING, Admission, Columns, Decision, Gathered, Offer, Removal, State
from drb.buffer.admission.class_balanced import ClassBalanced
from drb.buffer.admission.expiry import Expiry, MaxAge
from drb.buffer.admission.fifo import Fifo
from drb.buffer.admission.random_replacement import RandomReplacement
from drb.buffer.admission.reservoir import KeyedReservoir
from drb.types import Int64Array

REFILLS = ("none", "recent")
_POLICIES: dict[str, Any] = {
    "reservoir": KeyedReservoir,
    "class_balanced": ClassBalanced,
    "random_replacement": RandomReplacement,
    "fifo": Fifo,
}
ADMISSIONS = tuple(_POLICIES)


def build_admission(name: str, *, candidates: int | None, seed: int, rank: int, refill: str = "none") -> Admission:
    """The policy of that name.

    candidates: c per minibatch; belongs to random_replacement alone.
    refill: what may take slots freed by removal. none: only what the policy would have stored anyhow; recent: whatever
    is offered next. The policies without thresholds do the latter always.
    """
    if name not in ADMISSIONS:
        raise ValueError(f"admission must be one of {', '.join(ADMISSIONS)}; got {name!r}")
    if name == "random_replacement":
        if candidates is None:
            raise ValueError("admission=random_replacement needs candidates (the paper's c), for example 14")
        return RandomReplacement(candidates, seed, rank)
    if candidates is not None:
        raise ValueError(f"candidates={candidates} has no meaning for admission={name}; only for random_replacement")
    if name == "fifo":
        return Fifo()
    return (KeyedReservoir if name == "reservoir" else ClassBalanced)(refill_recent=refill == "recent")


def reshard_admission(
    name: str, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
) -> tuple[Int64Array, State]:
    """`Admission.reshard` of the policy of that name."""
    reshard: Callable[..., tuple[Int64Array, State]] = _POLICIES[name].reshard
    return reshard(gathered, states, capacity)


__all__ = [
    "ADMISSIONS",
    "NOTHING",
    "REFILLS",
    "Admission",
    "ClassBalanced",
    "Columns",
    "Decision",
    "Expiry",
    "Fifo",
    "Gathered",
    "KeyedReservoir",
    "MaxAge",
    "Offer",
    "RandomReplacement",
    "Removal",
    "build_admission",
    "reshard_admission",
]
