"""What a rehearsal tells of itself between steps: counts, bytes, seconds and what is stored."""

from __future__ import annotations

from typing import Any

from drb.exchange import count_distinct
from drb.rehearsal.lifetime import Lifetime
from drb.rehearsal.running import Running
from drb.types import Int64Array


class Known(Lifetime):
    """The part of `Rehearsal` that changes nothing."""

    _stored_and_distinct: tuple[int, int] | None = None

    def describe(self) -> str:
        """One paragraph: what was chosen, and the memory it takes on this rank."""
        return self._require_running("describe").parts.describe(self.settings)

    def stats(self) -> dict[str, Any]:
        """This rank's counts, bytes and seconds so far, and all ranks' where a name says total. Not collective.

        extend_seconds: on the training thread, in rehearsal calls; of those, wait_seconds: waiting for a round,
        inline_seconds: in rounds that run there, and admission_seconds: deciding who is stored and copying those.
        setup_seconds: of the first call, not in extend's. round_seconds: of all rounds, with announce (waiting for the
        slowest rank), draw and fetch; index_seconds: of fetch, saying which rows are wanted.
        late_bytes: that late fields take of a rank's buffer, on average. stored_total: as of the last round or
        `duplicate_share`; distinct_total: as of the latter, else None. With exemplars="auto:accuracy" exemplars is what
        is drawn now, exemplars_mean per step so far, and old_accuracy and old_baseline what it goes by.
        """
        if self._running is None:
            return {"rounds": 0, "exemplars": self.settings.exemplars, **self._unstarted.earlier}
        return statistics(self._running, self.settings.exemplars, self._setup_seconds, self._stored_and_distinct)

    def counts(self, *, wait: bool = True) -> dict[int, int]:
        """Exemplars in this rank's buffer per stratum, with those of the last minibatch if it is waited for."""
        return (self._running or self._unstarted).counts(wait=wait)

    def sample_ids(self) -> Int64Array:
        """Ids of the samples in this rank's buffer, the last minibatch's included: int64 [n], a copy."""
        return (self._running or self._unstarted).sample_ids()

    def ages(self) -> Int64Array:
        """How many minibatches ago each exemplar in this rank's buffer was stored: int64 [n], 0 with the last one."""
        return (self._running or self._unstarted).ages()

    def duplicate_share(self) -> float:
        """The share of the union's exemplars that are stored more than once. Collective.

        It is 0 with `OwnerSampler`; with reshuffled shards every rank sooner or later holds the same samples. Ids are
        compared by hash bucket, so each rank receives about as many as it stores.
        """
        self._require_open("ask")
        if self._running is not None:
            self._running.drain()
        stored, distinct = self._stored_and_distinct = count_distinct(self.sample_ids(), self._peers)
        return 1 - distinct / stored if stored else 0.0


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
    stats |= {name: stats[name] + earlier[name] for name in _SUMMED if name in earlier}
    if parts.auto is not None and (told := parts.auto.stats()):
        stats |= {"exemplars_mean": stats["exemplars_fetched"] / max(1, stats["rounds"] * parts.interval), **told}
    return stats
