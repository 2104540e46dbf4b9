"""Proportions: what share of the rehearsed exemplars each part of the union gets. One file per way of sharing.

To add one, derive a class from `Proportions`; `drb.registry` says how it is found.
"""

from __future__ import annotations

from drb.registry import Registry
from drb.sampling.proportions.base import Proportions, StratumWeights

PROPORTIONS: Registry[Proportions] = Registry(
    "proportions", Proportions, package=__name__, entry_points="drb.proportions"
)

__all__ = ["PROPORTIONS", "Proportions", "StratumWeights"]
