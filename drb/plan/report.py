"""The answer of `drb plan` in words."""

from __future__ import annotations

from drb.machine import format_bytes
from drb.plan.measure import Measurement

NOISY = 0.05  # quartiles of the cost that are further apart say little


def describe(found: Measurement) -> str:
    """Whether rehearsal is overlapped, what it costs, and the figures behind the two answers."""
    b, r, step = found.rows, found.exemplars, found.step_s
    ranks = "1 rank" if found.ranks == 1 else f"{found.ranks} ranks on {found.nodes} node{'s' * (found.nodes > 1)}"
    low, high = found.cost_quartiles
    noise = " The machine was busy: measure again when nothing else runs." if high - low > NOISY else ""
    shared = "" if found.interval == 1 else f" (one round serves {found.interval} steps)"
    return (
        f"{_overlap(found)}\n"
        f"A step takes {readable_time(step['rehearsal'])} with rehearsal and {readable_time(step['plain'])} with plain "
        f"DDP on as many rows: {found.cost:+.1%} (half of the turns between {low:+.1%} and {high:+.1%}).{noise}\n"
        f"  ranks    {ranks}, exchange {found.exchange}\n"
        f"  step     {readable_time(step['smaller'])} on {b} rows, {readable_time(step['plain'])} on {b} + {r}\n"
        f"  round    {readable_time(found.round_s * found.interval)}{shared}; training waits "
        f"{readable_time(found.wait_s)} per step\n"
        f"  memory   {format_bytes(found.bytes_per_rank)} per rank at most"
    )


def _overlap(found: Measurement) -> str:
    if found.inline:
        return (
            "Rehearsal is not overlapped: its rounds are so short that they run on the training thread "
            "(rehearsal.asynchronous=true would use a worker thread)."
        )
    if found.is_overlapped:
        return "Rehearsal is overlapped with training."
    return (
        f"Rehearsal is NOT overlapped: training waits {readable_time(found.wait_s)} of a step for the exemplars. Draw "
        "fewer (rehearsal.exemplars=auto finds how many), or let one round serve several steps (rehearsal.interval=8)."
    )


def readable_time(seconds: float) -> str:
    """Format a time, for example '1.5 ms'."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
