"""The contract of an exchange: how ranks learn each other's counts and read each other's rows.

A round calls, in this order and on every rank alike: `publish`, `gather_counts`, perhaps `share`, `fetch`.
`gather_counts` is the round's barrier: no rank returns before every rank has published. `fetch` reads the tables
published in this round. Rows retired before a `publish` may be reused after the next `gather_counts`.

Letters: W ranks, H integers of a message, R exemplars, K words of a row, n stored exemplars.
"""

from __future__ import annotations

from typing import Protocol

from drb.types import Int64Array


class DirectRows(Protocol):
    """Rows in memory that this process reads: so a GPU can read them, too. reachable: all of them, int64 [*, K]."""

    reachable: Int64Array

    def locate(self, owners: Int64Array, positions: Int64Array) -> Int64Array:
        """Which of them are at `positions` of ranks `owners` in the published tables: int64 [R], as those."""
        ...


class Exchange(Protocol):
    """One implementation per transport; all pass the same contract tests.

    direct: where `fetch` does nothing but read this process's memory, how; else None.
    """

    name: str
    direct: DirectRows | None

    @property
    def index_seconds(self) -> float:
        """Seconds of all fetches so far, until the owners, or this rank, knew which rows to read.

        It is 0 where that takes no time of its own.
        """
        ...

    @property
    def rows(self) -> Int64Array:
        """This rank's rows, int64 [capacity + spares, K]; allocated once by the exchange that reads them."""
        ...

    def publish(self, table: Int64Array, changed: bool) -> None:
        """Offer position → row, int64 [n], to the peers; changed=False: it is the one of the last round."""
        ...

    def gather_counts(self, message: Int64Array) -> Int64Array:
        """The barrier. message int64 [H] → every rank's message, int64 [W, H]; valid until the next call."""
        ...

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        """Every rank's values, of lengths that all ranks know (int64 [W]); this rank's has lengths[rank]."""
        ...

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        """Rows at `positions` int64 [R] of ranks `owners` int64 [R], in any order, into out int64 [R, K], in that one.

        Cheapest where owners ascend: some exchanges copy the rows once more where they do not.
        """
        ...

    def erase(self) -> None:
        """Zero memory in which rows were on their way. Between rounds, for rows that must not be found there."""
        ...

    @property
    def staging_bytes(self) -> int:
        """Memory for rows on their way, at most, in bytes."""
        ...

    def close(self, together: bool = False) -> None:
        """Let go of the memory. together: every rank is closing now, so that this may be collective."""
        ...
