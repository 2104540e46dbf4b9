"""Which metric a summary counts by, and how its scores are written: in percent if they lie between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drb.runs.report import Summary


def metric_of(summary: Summary) -> str:
    """The name of the metric that acc, bwt and forgetting are of."""
    return str(summary.get("metric", "accuracy"))


def matrix_of(summary: Summary) -> list[list[float | None]]:
    """R of that metric: rows by the task trained last, columns by the task tested on.

    Raises:
        KeyError: the summary lacks it.
    """
    matrix: list[list[float | None]] = summary[f"{metric_of(summary)}_matrix"]
    return matrix


def higher_is_better(summary: Summary) -> bool:
    return bool(summary.get("higher_is_better", True))


def is_fraction(summary: Summary) -> bool:
    """Whether scores lie between 0 and 1, so that they are shown in percent."""
    bounds: Any = summary.get("bounds", (0.0, 1.0))
    return bounds is not None and tuple(bounds) == (0.0, 1.0)


def shown(summary: Summary, value: float, *, signed: bool = False) -> str:
    """A score of the summary's metric, for example '97.3' in percent or '0.0143'."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if is_fraction(summary) else f"{value:{sign}.4g}"


def described(summaries: Sequence[Summary]) -> str:
    """The metrics of these runs for a caption, for example 'Accuracy in %' or 'Error (lower is better)'."""
    names = dict.fromkeys(
        metric_of(summary)
        + (" in %" if is_fraction(summary) else "")
        + ("" if higher_is_better(summary) else " (lower is better)")
        for summary in summaries
    )
    text = ", ".join(names)
    return text[:1].upper() + text[1:]
