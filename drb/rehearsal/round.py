"""One round of the rehearsal: publish → announce (barrier) → draw → fetch.

Runs on the engine's thread, collectively: every rank runs its rounds in the same order. What it reads was fixed
when the round was handed in, so its result does not depend on when it runs. It fetches the exemplars of `interval`
steps at once, an independent draw for each.

Letters: R exemplars of a draw, W ranks, S strata, K words of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from drb.buffer.positions import PositionTable, TableChange
from drb.buffer.record import ROUND, SAMPLE_ID, SLOT, STRATUM, RecordSpec
from drb.buffer.storage import HeapStorage
from drb.distributed.failure import first_few
from drb.exchange import Exchange
from drb.rehearsal.delivery import Delivery, ReuseFence
from drb.sampling.counts import UnionCounts
from drb.sampling.sampler import Draw, Sampler
from drb.types import Exemplars, Handle, Int64Array

ACTIVE, FINISHED = 0, 1
_STATUS, _STEP, _SIZE, _OFFERED, _CHANGED = range(5)
_WHERE = ("owner", "position")


class UnevenError(ValueError):
    """Ranks stopped after different numbers of steps."""


@dataclass(frozen=True)
class StepExemplars:
    """One draw and its rows, int64 [R, K], from `first` on in block `block`; memory is reused when all is used up.

    step: by which the draw is numbered; the last one that could be drawn was offered two steps before.
    """

    step: int
    draw: Draw
    rows: Int64Array
    block: int
    first: int

    def __len__(self) -> int:
        return len(self.draw)

    def named(self, spec: RecordSpec) -> Exemplars:
        """The rows as named tensors that share their memory."""
        headers = torch.from_numpy(self.rows)
        return Exemplars(
            fields=spec.views(self.rows),
            sample_id=headers[:, SAMPLE_ID],
            stratum=headers[:, STRATUM],
            weight=torch.from_numpy(self.draw.weight).float(),
            age=self.step - headers[:, ROUND],
            handle=Handle(self.draw.owner, self.rows[:, SLOT], self.rows[:, ROUND]),
        )


@dataclass(frozen=True)
class RoundResult:
    """statuses, steps: every rank's when it handed this round in, int64 [W]. per_step: none if a rank has ended."""

    statuses: Int64Array
    steps: Int64Array
    per_step: list[StepExemplars]
    someone_finished: bool = False

    @property
    def exemplars(self) -> int:
        """Of each step."""
        return len(self.per_step[0]) if self.per_step else 0

    @property
    def is_even(self) -> bool:
        """Whether all ranks have taken as many steps, and all or none go on."""
        return bool((self.statuses == self.statuses[0]).all() and (self.steps == self.steps[0]).all())

    def uneven(self) -> UnevenError:
        """The error for ranks that must all stop at the same step, and did not."""
        first = int(self.steps[self.statuses == FINISHED].min())
        finished = (self.statuses == FINISHED) & (self.steps == first)
        stopped, going_on = (first_few(np.flatnonzero(ranks).tolist()) for ranks in (finished, ~finished))
        return UnevenError(
            f"ranks [{stopped}] stopped after {first} steps while ranks [{going_on}] go on; "
            'give every rank the same number of minibatches (drb.OwnerSampler does) or set uneven="stop"'
        )


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
    """Owns the blocks that rounds fetch into: one for each round in flight, and one whose exemplars are being used.

    blocks: int64 [depth + 1, interval · R, K]; round number n, counted from 0, has block n % (depth + 1).
    """

    def __init__(
        self,
        table: PositionTable,
        exchange: Exchange,
        sampler: Sampler,
        *,
        rank: int,
        world_size: int,
        exemplars: int,
        count_strata: bool,
        depth: int = 1,
        interval: int = 1,
    ) -> None:
        """exemplars: the most that are drawn for a step."""
        self._table = table
        self._exchange = exchange
        self._sampler = sampler
        self._rank = rank
        self.interval = interval
        self._union = UnionCounts(world_size) if count_strata else None
        storage = HeapStorage((depth + 1) * interval * exemplars, exchange.rows.shape[1], pin=torch.cuda.is_available())
        self.blocks = storage.rows.reshape(depth + 1, interval * exemplars, -1)
        self.fence: ReuseFence | Delivery = ReuseFence(depth + 1)
        self.delivery: Delivery | None = None  # None: exemplars stay on the host
        self.times = RoundTimes()
        self.union_size = 0
        self.exemplars_of: Callable[[int], int] | None = None  # of a round, by the union's size: `auto_exemplars`
        self._message: Int64Array = np.zeros(_CHANGED + 1, np.int64)

    def block_of(self, step: int) -> int:
        """Of the round that is handed in at this step."""
        return step // self.interval % len(self.blocks)

    def run(
        self,
        step: int,
        status: int,
        offered: int,
        change: TableChange,
        on_announced: Callable[[Int64Array], None] | None = None,
    ) -> RoundResult:
        """The round handed in at `step`; on_announced gets the ranks' statuses as soon as they are known."""
        start, cpu = time.perf_counter(), time.thread_time()
        changes = self._publish(step, status, offered, change)
        messages_WH = self._exchange.announce(self._message)
        statuses, steps = messages_WH[:, _STATUS].copy(), messages_WH[:, _STEP].copy()
        if on_announced is not None:
            on_announced(statuses)
        someone_finished = bool(statuses.any())  # ACTIVE is 0
        if len(steps) > 1 and (steps != steps[0]).any() and not someone_finished:
            raise UnevenError(f"the ranks are at different steps: {steps.tolist()}; resume all from one checkpoint")
        counts_WS = self._counts(messages_WH, changes)
        self.union_size = int(counts_WS.sum())
        announced = time.perf_counter()

        if someone_finished:
            return RoundResult(statuses, steps, [], someone_finished)
        if self.exemplars_of is not None:
            self._sampler.exemplars = self.exemplars_of(self.union_size)
        draws = [self._sampler.draw(step + i, counts_WS, messages_WH[:, _OFFERED]) for i in range(self.interval)]
        drawn = time.perf_counter()
        block = self.block_of(step)
        self.fence.wait(block)
        self._fetch(draws, block)
        self._time(start, announced, drawn, cpu, sum(map(len, draws)))
        return RoundResult(statuses, steps, self._per_step(step, draws))

    def deliver_by(self, delivery: Delivery) -> None:
        """From now on, before the first round."""
        self.fence = self.delivery = delivery

    def _fetch(self, draws: list[Draw], block: int) -> None:
        count = sum(map(len, draws))
        if not count:  # alike on all ranks: every rank draws min(r, N)
            return
        owners, positions = draws[0].owner, draws[0].position
        if len(draws) > 1:
            owners, positions = (np.concatenate([getattr(draw, name) for draw in draws]) for name in _WHERE)
        if self.delivery is not None:
            self.delivery.fetch(owners, positions, block)
        else:
            self._exchange.fetch(owners, positions, self.blocks[block, :count])

    def _per_step(self, step: int, draws: list[Draw]) -> list[StepExemplars]:
        count = len(draws[0])  # of each: all are from one union
        return [self.exemplars_at(step + i, draw, i * count) for i, draw in enumerate(draws)]

    def exemplars_at(self, step: int, draw: Draw, first: int) -> StepExemplars:
        """What this draw's round fetched, or is to be restored, from row `first` of its block on."""
        block = self.block_of(step)
        return StepExemplars(step, draw, self.blocks[block, first : first + len(draw)], block, first)

    def uncount(self, rounds: int, exemplars: int) -> None:
        """So many rounds, which fetched so many exemplars, will be run again."""
        self.times.rounds -= rounds
        self.times.exemplars -= exemplars

    def erase(self) -> None:
        """Zero the fetched rows. No round may be in flight."""
        self.fence.settle()
        self.blocks.fill(0)
        if self.delivery is not None:
            self.delivery.erase()
        self._exchange.erase()

    def _publish(self, step: int, status: int, offered: int, change: TableChange) -> Int64Array:
        table, changed = self._table, self._table.apply(change)
        rows = table.rows
        self._exchange.publish(rows, changed)
        changes = np.empty(0, np.int64)
        if self._union is not None and changed:
            changes = self._union.changes(self._rank, *table.stratum_counts())
        self._message[:] = (status, step, len(rows), offered, len(changes))
        return changes

    def _counts(self, messages_WH: Int64Array, changes: Int64Array) -> Int64Array:
        if self._union is None:
            return messages_WH[:, _SIZE : _SIZE + 1]
        if messages_WH[:, _CHANGED].any():
            for rank, pairs in enumerate(self._exchange.share(changes, messages_WH[:, _CHANGED].copy())):
                self._union.apply(rank, pairs)
        return self._union.counts

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
