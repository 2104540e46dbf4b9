"""Proportions: what share of the rehearsed exemplars each part of the union gets.

A proportion turns counts into *groups*: parts of the union inside which every exemplar is equally likely, each
with a weight p. Letters: W ranks, S strata, G groups, C cells of a group (a cell = one stratum on one rank).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from drb.sampling.proportions.balanced import balanced
from drb.sampling.proportions.stream import stream
from drb.sampling.proportions.uniform import uniform
from drb.types import Float64Array, Int64Array


class Proportions(Protocol):
    """(counts int64 [W, S], offered int64 [W]) → (cells int64 [G, C], weights float64 [G])."""

    def __call__(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]: ...


@dataclass(frozen=True)
class ProportionsInfo:
    """needs_strata: counts must be kept per stratum. needs_offered: each rank's distinct offers must be counted."""

    groups: Proportions
    needs_strata: bool = False
    needs_offered: bool = False


PROPORTIONS = {
    "uniform": ProportionsInfo(uniform),
    "stream": ProportionsInfo(stream, needs_offered=True),
    "balanced": ProportionsInfo(balanced, needs_strata=True),
}


def build_proportions(name: str) -> ProportionsInfo:
    if name not in PROPORTIONS:
        raise ValueError(f"proportions must be one of {', '.join(PROPORTIONS)}; got {name!r}")
    return PROPORTIONS[name]


__all__ = ["PROPORTIONS", "Proportions", "ProportionsInfo", "build_proportions"]
