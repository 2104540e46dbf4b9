"""Admission policies: which offered samples a rehearsal buffer stores, and in whose place. One file per policy.

To add one, derive a class from `Admission`; `drb.registry` says how it is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from drb.buffer.admission.base import REFILLS, Admission, Gathered, State, fill_holes, slots_for
from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Decision, Offer, Removal
from drb.registry import Registry
from drb.variant import fresh, name_of, options_of

ADMISSIONS: Registry[Admission] = Registry(
    "admission policy", Admission, package=__name__, entry_points="drb.admissions"
)


def build_admission(
    given: str | type[Admission] | Admission,
    *,
    seed: int,
    rank: int,
    candidates: int | None = None,
    refill: str = "none",
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Admission:
    """A policy ready for its first offer.

    Args:
        given: a name, a class or an object (see `Registry.build`), which is left as it is.
        candidates, refill: settings of a rehearsal that are options of some policies.
        options: values for the other options.
    Raises:
        ValueError: as `Registry.build`; candidates or refill for a policy that has no such option.
    """
    shared = {"candidates": candidates, "refill": None if refill == "none" else refill}
    kind = ADMISSIONS.find(given) if isinstance(given, str) else given
    shared = {name: value for name, value in shared.items() if value is not None and _takes(kind, name, value)}
    policy = fresh(ADMISSIONS.build(given, {**shared, **options}))
    policy.begin(seed, rank)
    return policy


def _takes(kind: type[Admission] | Admission, name: str, value: object) -> bool:
    """Whether a policy has this option; False if the setting changes nothing for it."""
    if name in options_of(kind):
        return True
    if name == "refill" and kind.refills_always:
        return False
    others = [other for other, policy in ADMISSIONS.own.items() if name in options_of(policy)]
    raise ValueError(f"{name}={value} has no meaning for admission={name_of(kind)}; only for {' and '.join(others)}")


__all__ = [
    "ADMISSIONS",
    "NOTHING",
    "REFILLS",
    "Admission",
    "Columns",
    "Decision",
    "Gathered",
    "Offer",
    "Removal",
    "State",
    "build_admission",
    "fill_holes",
    "slots_for",
]
