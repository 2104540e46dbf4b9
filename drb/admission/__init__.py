"""Admission policies: which offered samples a rehearsal buffer stores, and in whose place."""

from __future__ import annotations

from drb.admission.base import NOTHING, Admission, Columns, Decision, Offer
from drb.admission.class_balanced import ClassBalanced
from drb.admission.fifo import Fifo
from drb.admission.random_replacement import RandomReplacement
from drb.admission.reservoir import KeyedReservoir

ADMISSIONS = ("reservoir", "class_balanced", "random_replacement", "fifo")


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
    return {"reservoir": KeyedReservoir, "class_balanced": ClassBalanced, "fifo": Fifo}[name]()  # type: ignore[return-value]


__all__ = [
    "ADMISSIONS",
    "NOTHING",
    "Admission",
    "ClassBalanced",
    "Columns",
    "Decision",
    "Fifo",
    "KeyedReservoir",
    "Offer",
    "RandomReplacement",
    "build_admission",
]
