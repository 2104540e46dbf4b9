"""Gates: what an update must reach, and what it may lose, to be promoted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Gates: TypeAlias = Mapping[str, Mapping[str, float]]
"""By the name of an evaluation set: `may_fall` in points, `must_reach` in percent, or both."""

_KINDS = ("may_fall", "must_reach")


def read_gates(may_fall: Sequence[str], must_reach: Sequence[str]) -> dict[str, dict[str, float]]:
    """Gates from a command line.

    Args:
        may_fall, must_reach: NAME=NUMBER each.
    Raises:
        ValueError: another form, or a number outside 0 to 100.
    """
    gates: dict[str, dict[str, float]] = {}
    for kind, texts in zip(_KINDS, (may_fall, must_reach), strict=True):
        for text in texts:
            name, _, value = text.partition("=")
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not name or not 0 <= number <= 100:
                option = kind.replace("_", "-")
                raise ValueError(f"--{option} takes NAME=NUMBER with a number from 0 to 100, got {text!r}")
            gates.setdefault(name, {})[kind] = number
    return gates


def check_gates(gates: Any) -> None:
    """Raises ValueError if something is not of the form {name: {may_fall: points, must_reach: percent}}."""
    expected = "gates must be {NAME: {may_fall: POINTS, must_reach: PERCENT}}, numbers from 0 to 100"
    if not isinstance(gates, Mapping):
        raise ValueError(f"{expected}; got {gates!r}")
    for name, gate in gates.items():
        if not isinstance(gate, Mapping) or not gate or not gate.keys() <= set(_KINDS):
            raise ValueError(f"{expected}; got {name}: {gate!r}")
        for kind, number in gate.items():
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 100:
                raise ValueError(f"{expected}; got {name}: {kind}: {number!r}")


def require_known(gates: Gates, eval_sets: Sequence[str]) -> None:
    """Raises ValueError if a gate is about an evaluation set that there is not."""
    for name in gates:
        if name not in eval_sets:
            raise ValueError(
                f"a gate is about the evaluation set {name!r}, and the sets are {', '.join(eval_sets)}; add "
                f"--eval {name}=PATH, or mend the gate's name"
            )


def failures(gates: Gates, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """What keeps an update from being promoted, in words; empty if nothing does.

    Args:
        before, after: accuracy by evaluation set, fractions; `before` is empty for a first version.
    """
    found = []
    for name, gate in gates.items():
        if name not in after:
            continue  # such as base, before there is one
        reached = 100 * after[name]
        if "must_reach" in gate and reached < gate["must_reach"]:
            found.append(f"{name} reached {reached:.1f} %, and must reach {gate['must_reach']:g} %")
        if "may_fall" in gate and name in before:
            fall = 100 * before[name] - reached
            if fall > gate["may_fall"] + 1e-9:
                found.append(f"{name} fell by {fall:.1f} points, and may fall by {gate['may_fall']:g}")
    return found
