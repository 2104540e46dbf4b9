"""How training stands in words, for a line and for the live view."""

from __future__ import annotations

from drb.training.reporting.live import Live


def figures(live: Live) -> list[str]:
    """Loss, score and throughput, as far as they are known."""
    found = [] if live.loss is None else [f"loss {live.loss:.3f}"]
    found += [live.score] if live.score else []
    return found if live.samples_per_second is None else [*found, f"{live.samples_per_second:,.0f} samples/s"]


def duration(seconds: float) -> str:
    """Seconds as a person says them, for example '45 s', '12 min' or '3.4 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
