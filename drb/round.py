"""One round of the rehearsal: publish → announce (barrier) → draw → fetch.

Runs on the engine's thread, collectively: every rank runs its rounds in the same order. What it reads was fixed
when the round was handed in, so its result does not depend on when it runs.

Letters: R exemplars, W ranks, S strata, K words of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from drb.buffer import Buffer
from drb.exchange import Exchange
from drb.failure import first_few
from drb.fence import ReuseFence
from drb.record import ROUND, SAMPLE_ID, SLOT, STRATUM, RecordSpec
from drb.sampler import Draw, Sampler
from drb.storage import HeapStorage
from drb.types import Exemplars, Handle, Int64Array
from drb.union import UnionCounts

ACTIVE, FINISHED = 0, 1
_STATUS, _ROUND, _SIZE, _OFFERED, _CHANGED = range(5)


class UnevenError(ValueError):
    """Ranks stopped after different numbers of steps."""


@dataclass(frozen=True)
class RoundResult:
    """statuses int64 [W]; the draw and its rows int64 [R, K] (memory reused two rounds later), R = 0 if none."""

    round: int
    statuses: Int64Array
    draw: Draw
    rows: Int64Array

    @property
    def someone_finished(self) -> bool:
        return bool((self.statuses == FINISHED).any())

    @property
    def someone_goes_on(self) -> bool:
        return bool((self.statuses == ACTIVE).any())

    def uneven(self) -> UnevenError:
        """The error for ranks that must all stop at the same step, and did not."""
        finished, going_on = (first_few(np.flatnonzero(self.statuses == s).tolist()) for s in (FINISHED, ACTIVE))
        return UnevenError(
            f"ranks [{finished}] stopped after {self.round} steps while ranks [{going_on}] go on; "
            'give every rank the same number of minibatches (drb.OwnerSampler does) or set uneven="stop"'
        )

    def exemplars(self, spec: RecordSpec) -> Exemplars:
        """The rows as named tensors that share their memory."""
        headers = torch.from_numpy(self.rows)
        return Exemplars(
            fields=spec.views(self.rows),
            sample_id=headers[:, SAMPLE_ID],
            stratum=headers[:, STRATUM],
            weight=torch.from_numpy(self.draw.weight).float(),
            age=self.round - headers[:, ROUND],
            handle=Handle(self.draw.owner, self.rows[:, SLOT], self.rows[:, ROUND]),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows.copy(), **{f.name: getattr(self.draw, f.name) for f in fields(Draw)}}


def uncounted(state: Mapping[str, Any]) -> dict[str, Any]:
    """A saved rehearsal's statistics without the round whose exemplars it holds: that round will be run again."""
    stats, fetched = dict(state["stats"]), state["fetched"]
    if fetched is not None:
        stats["rounds"] -= 1
        stats["exemplars_fetched"] -= len(fetched["rows"])
    return stats


@dataclass
class RoundTimes:
    """Seconds summed over rounds. `announce` includes waiting for the slowest peer; `index` is a part of `fetch`."""

    rounds: int = 0
    announce: float = 0.0
    draw: float = 0.0
    fetch: float = 0.0
    index: float = 0.0
    total: float = 0.0
    cpu: float = 0.0
    exemplars: int = 0


class RoundRunner:
    """Owns the two blocks that rounds fetch into, alternately."""

    def __init__(
        self,
        buffer: Buffer,
        exchange: Exchange,
        sampler: Sampler,
        *,
        rank: int,
        world_size: int,
        exemplars: int,
        count_strata: bool,
    ) -> None:
        """exemplars: the most that a round draws."""
        self._buffer = buffer
        self._exchange = exchange
        self._sampler = sampler
        self._rank = rank
        self._union = UnionCounts(world_size) if count_strata else None
        self.blocks = HeapStorage(2 * exemplars, buffer.spec.words).rows.reshape(2, exemplars, -1)
        self.fence = ReuseFence(2)
        self.times = RoundTimes()
        self.union_size = 0
        self.exemplars_of: Callable[[int], int] | None = None  # of a round, by the union's size: `auto_exemplars`
        self._message: Int64Array = np.zeros(_CHANGED + 1, np.int64)

    def run(
        self, round_: int, status: int, offered: int, on_announced: Callable[[Int64Array], None] | None = None
    ) -> RoundResult:
        """Run one round; on_announced gets the ranks' statuses as soon as they are known."""
        start, cpu = time.perf_counter(), time.thread_time()
        changes = self._publish(round_, status, offered)
        messages_WH = self._exchange.announce(self._message)
        statuses = messages_WH[:, _STATUS].copy()
        if on_announced is not None:
            on_announced(statuses)
        self._check_rounds(messages_WH, statuses)
        counts_WS = self._counts(messages_WH, changes)
        self.union_size = int(counts_WS.sum())
        announced = time.perf_counter()

        if (statuses == FINISHED).any():
            return RoundResult(round_, statuses, _no_draw(len(statuses)), self.blocks[0, :0])
        if self.exemplars_of is not None:
            self._sampler.exemplars = self.exemplars_of(self.union_size)
        draw = self._sampler.draw(round_, counts_WS, messages_WH[:, _OFFERED])
        drawn = time.perf_counter()
        rows = self.blocks[round_ % 2, : len(draw)]
        self.fence.wait(round_ % 2)
        if len(draw):  # alike on all ranks: every rank draws min(r, N)
            self._exchange.fetch(draw.per_owner, draw.position, rows)
        self._time(start, announced, drawn, cpu, len(draw))
        return RoundResult(round_, statuses, draw, rows)

    def uncount(self, result: RoundResult) -> None:
        """This round will be run again."""
        self.times.rounds -= 1
        self.times.exemplars -= len(result.draw)

    def erase(self) -> None:
        """Zero the fetched rows. No round may be in flight."""
        self.fence.settle()
        self.blocks.fill(0)
        self._exchange.erase()

    def restore(self, state: Mapping[str, Any] | None, round_: int) -> RoundResult | None:
        """The result of a round that was fetched before the state was saved, in its block."""
        if state is None:
            return None
        most = self.blocks.shape[1]
        if len(state["rows"]) > most:
            raise ValueError(
                f"the saved round holds {len(state['rows'])} exemplars, this rehearsal draws {most}; "
                "resume with as many"
            )
        rows = self.blocks[round_ % 2, : len(state["rows"])]
        rows[:] = state["rows"]
        draw = Draw(**{f.name: state[f.name] for f in fields(Draw)})
        return RoundResult(round_, np.full(len(draw.per_owner), ACTIVE), draw, rows)

    def _publish(self, round_: int, status: int, offered: int) -> Int64Array:
        table, changed = self._buffer.position_table()
        self._exchange.publish(table, changed)
        changes = np.empty(0, np.int64)
        if self._union is not None and changed:
            changes = self._union.changes(self._rank, *self._buffer.stratum_counts())
        self._message[:] = (status, round_, len(table), offered, len(changes))
        return changes

    def _counts(self, messages_WH: Int64Array, changes: Int64Array) -> Int64Array:
        if self._union is None:
            return messages_WH[:, _SIZE : _SIZE + 1]
        if messages_WH[:, _CHANGED].any():
            for rank, pairs in enumerate(self._exchange.share(changes, messages_WH[:, _CHANGED].copy())):
                self._union.apply(rank, pairs)
        return self._union.counts

    def _check_rounds(self, messages_WH: Int64Array, statuses: Int64Array) -> None:
        rounds = messages_WH[:, _ROUND]
        if (rounds != rounds[0]).any() and not (statuses == FINISHED).any():
            raise UnevenError(f"the ranks are at different rounds: {rounds.tolist()}; resume all from one checkpoint")

    def _time(self, start: float, announced: float, drawn: float, cpu: float, exemplars: int) -> None:
        end, times = time.perf_counter(), self.times
        times.rounds += 1
        times.announce += announced - start
        times.draw += drawn - announced
        times.fetch += end - drawn
        times.index = self._exchange.index_seconds
        times.total += end - start
        times.cpu += time.thread_time() - cpu
        times.exemplars += exemplars


def _no_draw(world_size: int) -> Draw:
    nothing = np.empty(0, np.int64)
    return Draw(nothing, nothing, np.empty(0), np.zeros(world_size, np.int64))
