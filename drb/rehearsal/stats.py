"""What a rehearsal counts and measures: see `Rehearsal.stats`."""

from __future__ import annotations

from typing import Any

from drb.rehearsal.running import Running

_SUMMED = (
    "rounds",
    "exemplars_fetched",
    "extend_seconds",
    "wait_seconds",
    "admission_seconds",
    "setup_seconds",
    "round_seconds",
    "announce_seconds",
    "draw_seconds",
    "fetch_seconds",
    "index_seconds",
    "inline_seconds",
    "worker_cpu_seconds",
)  # what a resumed run goes on counting


def statistics(
    running: Running, exemplars: int | str, setup_seconds: float, stored_and_distinct: tuple[int, int] | None
) -> dict[str, Any]:
    """The figures of one rank, `earlier` ones included.

    Args:
        exemplars: the setting; with auto, what was chosen is told, None before that.
        stored_and_distinct: what the last look for duplicates found.
    """
    parts, steps, times, earlier = running.parts, running.steps, running.parts.runner.times, running.earlier
    checked, distinct = stored_and_distinct or (0, earlier.get("distinct_total"))
    stats: dict[str, Any] = {
        "rounds": times.rounds,
        "minibatches": steps.last + 1,
        "exemplars": parts.auto.chosen if parts.auto else exemplars,
        "depth": parts.depth,
        "interval": parts.interval,
        "draws": parts.runner.draws,
        "exemplars_fetched": times.exemplars,
        "capacity": parts.buffer.capacity,
        "capacity_total": int(parts.capacities.sum()),
        "stored": parts.buffer.size,
        "stored_total": max(parts.runner.union_size, checked),  # a check also counts what is not visible yet
        "distinct_total": distinct,
        "late_bytes": int(parts.spec.late_bytes * parts.capacities.mean()),
        "bytes_per_rank": sum(parts.memory_bytes().values()),
        "extend_seconds": steps.extend_seconds,
        "wait_seconds": steps.wait_seconds,
        "admission_seconds": steps.admission_seconds,
        "setup_seconds": setup_seconds,
        "round_seconds": times.total,
        "announce_seconds": times.gather,
        "draw_seconds": times.draw,
        "fetch_seconds": times.fetch,
        "index_seconds": times.index,
        "inline_seconds": steps.inline_seconds,  # of rounds that ran in extend or step, on the training thread
        "worker_cpu_seconds": parts.engine.cpu_seconds,
        "exchange": parts.exchange.name,
        "asynchronous": parts.is_async,
    }
    return stats | {name: stats[name] + earlier[name] for name in _SUMMED if name in earlier}
