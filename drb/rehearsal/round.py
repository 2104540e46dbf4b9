"""One round, on the thread that runs rounds.

    prepare    rows that were admitted on a device are written
    publish    peers may read this rank's new position table
    gather     every rank's status, step and sizes; the round's barrier
    observe    what all ranks have learnt about rehearsed rows, if something depends on it
    draw       this rank's exemplars, for each step that the round serves
    fetch      their rows, into the block that is this round's turn

Every rank runs its rounds in the same order. What a round reads was fixed when it was submitted, so its result does
not depend on when it runs.

Letters: R exemplars of a draw, W ranks, S strata, K words of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from drb.buffer.positions import PositionTable, TableChange
from drb.exchange import Exchange, Peers
from drb.rehearsal.delivery import Delivery
from drb.rehearsal.exemplars import ACTIVE, Ends, RoundResult, StepExemplars, UnevenError
from drb.rehearsal.intake import Offered
from drb.sampling.counts import UnionCounts
from drb.sampling.sampler import Draw, Sampler, importance_of
from drb.types import Int64Array

if TYPE_CHECKING:
    from drb.rehearsal.divisions import Divisions
    from drb.rehearsal.ledger.recorder import Recorder
    from drb.rehearsal.observing import FeedbackRows, Observing
    from drb.rehearsal.prefilled import Prefilled

_STATUS, _STEP, _SIZE, _OFFERED, _SHARD, _CHANGED, _FEEDBACK = range(7)  # a rank's message; feedback is the rest of it


@dataclass
class RoundTimes:
    """Seconds summed over rounds. `gather` includes waiting for the slowest peer; `index` is a part of `fetch`."""

    rounds: int = 0
    gather: float = 0.0
    draw: float = 0.0
    fetch: float = 0.0
    index: float = 0.0
    total: float = 0.0
    exemplars: int = 0


class RoundRunner:
    """Runs rounds one after the other; each serves `interval` steps, with `draws` independent draws for each.

    blocks: int64 [depth + 1, interval · draws · R, K], of the delivery: one for each round in flight, and one whose
    exemplars are being used. Round number n, counted from 0, has block n % (depth + 1).
    exemplars_of: the number of exemplars that a round draws, as a function of the union's size; None: the sampler's.
    on_gathered: is told the ranks' statuses, int64 [W], as soon as they are known.
    by_stratum: whether draws tell the strata of their exemplars.
    recorder: logs what rounds publish. divisions: compares how the ranks divide the samples.
    failure: the error of a round, after which none is run.
    """

    def __init__(
        self,
        table: PositionTable,
        exchange: Exchange,
        sampler: Sampler,
        delivery: Delivery,
        *,
        rank: int = 0,
        world_size: int = 1,
        count_strata: bool = False,
        interval: int = 1,
        draws: int = 1,
        peers: Peers | None = None,
        prefilled: Prefilled | None = None,
        observing: Observing | None = None,
        importance: bool = False,
    ) -> None:
        self.interval = interval
        self.observing = observing  # None: feedback is of no use
        self.importance = importance  # whether draws have theirs
        self.draws = draws
        self.delivery = delivery
        self.blocks = delivery.host_blocks
        self.times = RoundTimes()
        self.union_size = 0
        self.exemplars_of: Callable[[int], int] | None = None
        self.on_gathered: Callable[[Int64Array], None] | None = None
        self.recorder: Recorder | None = None
        self.divisions: Divisions | None = None
        self._shards, self._are_compared = b"", False  # what all ranks have said of their shards
        self.failure: BaseException | None = None
        self._last: RoundResult | None = None
        self._table = table
        self._exchange = exchange
        self._sampler = sampler
        self._rank = rank
        self._peers = peers
        self._prefilled = prefilled  # counts as one rank more
        self._changes = -1  # of it, that the union knows
        self._union = UnionCounts(world_size + (prefilled is not None)) if count_strata else None
        self._counted = b""  # what `union_size` is the sum of
        self.by_stratum = sampler.weighs_strata or (sampler.needs_strata and observing is not None)
        self._message: Int64Array = np.zeros(_FEEDBACK + (observing.words if observing else 0), np.int64)

    def block_of(self, step: int) -> int:
        """The block of the round that serves this step's draw."""
        return step // self.interval % len(self.blocks)

    def run(
        self, step: int, status: int, offered: Offered, change: TableChange, feedback: FeedbackRows | None = None
    ) -> RoundResult:
        """The round that was submitted in `step`.

        feedback: what this rank has learnt; None if the round is run again, which nobody learns from.

        After the last round of some rank its result is given again, and after one that failed its error is raised
        again: then no other round is run, whatever is queued.
        """
        if self.failure is not None:
            raise self.failure
        if self._last is not None:
            return self._last
        if self._peers is not None:
            self._peers.context = f"round {step // self.interval}"
        try:
            result = self._run(step, status, offered, change, feedback)
        except BaseException as error:
            self.failure = error
            raise
        if result.ends is not None:
            self._last = result
        return result

    def _run(
        self, step: int, status: int, offered: Offered, change: TableChange, feedback: FeedbackRows | None
    ) -> RoundResult:
        start, block = time.perf_counter(), self.block_of(step)
        if self.delivery.prepares:
            self.delivery.prepare()
        changes, observing = self._publish(step, status, offered, change), self.observing
        if observing is not None:
            observing.write(feedback, self._message[_FEEDBACK:])
        messages_WH = self._exchange.gather_counts(self._message)
        if self.on_gathered is not None:
            self.on_gathered(messages_WH[:, _STATUS].copy())
        heads_W2, own = messages_WH[:, : _STEP + 1], self._message[: _STEP + 1]
        all_go_on = own[_STATUS] == ACTIVE and heads_W2.tobytes() == own.tobytes() * len(heads_W2)  # all say the same
        ends = None if all_go_on else self._ends(heads_W2)
        counts_WS, offered_W = messages_WH[:, _SIZE : _SIZE + 1], messages_WH[:, _OFFERED]  # one stratum, or replaced
        if self._prefilled is not None:
            counts_WS, offered_W = self._prefilled.counted_with(counts_WS, offered_W)
        if self._union is not None:
            counts_WS = self._counts(self._union, messages_WH[:, _CHANGED], changes)
        counted = counts_WS.tobytes()
        if counted != self._counted:  # seldom, once buffers are full
            self._counted, self.union_size = counted, int(counts_WS.sum())
        if ends is not None:
            return RoundResult([], ends)
        if self.divisions is not None and (messages_WH[:, _SHARD].tobytes() != self._shards or not self._are_compared):
            self._shards = messages_WH[:, _SHARD].tobytes()
            self._are_compared = self.divisions.compare(self._shards, offered.shard)
        gathered = time.perf_counter()

        if observing is not None and feedback is not None:
            observing.observe(messages_WH[:, _FEEDBACK:])
        if self.exemplars_of is not None:
            self._sampler.exemplars = self.exemplars_of(self.union_size)
        if self.recorder is not None:
            self.recorder.round(step, self._sampler.exemplars, offered.distinct, change)
        strata_S = self._union.values if self._union is not None and self.by_stratum else None
        draw, draws = self._sampler.draw if self.draws == 1 else self._draw, []
        for draw_step in range(step, step + self.interval):
            draws.append(draw(draw_step, counts_WS, offered_W, 0, strata_S))  # noqa: PERF401  # a call less
        if self.importance:
            stored_W = counts_WS.sum(axis=1)
            draws = [replace(draw, importance=importance_of(draw, stored_W, offered_W, self.draws)) for draw in draws]
        drawn = time.perf_counter()

        owners, positions, count = draws[0].owner, draws[0].position, len(draws[0].owner)  # all draw as many
        if len(draws) > 1:
            owners = np.concatenate([draw.owner for draw in draws])
            positions = np.concatenate([draw.position for draw in draws])
        if count:  # alike on all ranks: every rank draws min(r, N)
            self.delivery.fetch(owners, positions, block)
        rows, per_step = self.blocks[block], []
        for i, drawn_for in enumerate(draws):
            first = i * count
            per_step.append(StepExemplars(step + i, drawn_for, rows[first : first + count], block, first, self.draws))

        end, times = time.perf_counter(), self.times
        times.rounds += 1
        times.gather += gathered - start
        times.draw += drawn - gathered
        times.fetch += end - drawn
        times.index = self._exchange.index_seconds
        times.total += end - start
        times.exemplars += count * len(draws)
        return RoundResult(per_step)

    @staticmethod
    def _ends(heads_W2: Int64Array) -> Ends:
        """How the ranks stand in the last round of one of them. heads_W2: their statuses and steps.

        Raises:
            UnevenError: all go on, at different steps.
        """
        statuses, steps = heads_W2.T.copy()
        if not np.count_nonzero(statuses):  # ACTIVE is 0
            raise UnevenError(f"the ranks are at different steps: {steps.tolist()}; resume all from one checkpoint")
        return Ends(statuses, steps)

    def _draw(
        self, step: int, counts_WS: Int64Array, offered_W: Int64Array, first: int, strata_S: Int64Array | None
    ) -> Draw:
        """All draws of one step, one after the other, from the draw number `first` on."""
        numbers, draw = range(first, self.draws), self._sampler.draw
        return Draw.join([draw(step, counts_WS, offered_W, number, strata_S) for number in numbers])

    def _publish(self, step: int, status: int, offered: Offered, change: TableChange) -> Int64Array:
        """Write this rank's message and show peers its table; the strata whose counts have changed, with those."""
        table, changed = self._table, self._table.apply(change)
        rows = table.rows
        self._exchange.publish(rows, changed)
        changes = np.empty(0, np.int64)
        if self._union is not None and changed:
            changes = self._union.changes(self._rank, *table.stratum_counts())
        self._message[:_FEEDBACK] = (status, step, len(rows), offered.distinct, offered.shard_word, len(changes))
        return changes

    def _counts(self, union: UnionCounts, lengths_W: Int64Array, changes: Int64Array) -> Int64Array:
        """Exemplars per rank and stratum, int64 [W, S], once all ranks have shared what has changed."""
        prefilled = self._prefilled
        if prefilled is not None and self._changes != prefilled.changes:
            gone = union.changes(len(union.counts) - 1, *prefilled.strata)
            union.apply(len(union.counts) - 1, gone)
            self._changes = prefilled.changes
        if lengths_W.any():
            for rank, pairs in enumerate(self._exchange.share(changes, lengths_W.copy())):
                union.apply(rank, pairs)
        return union.counts

    # -- between rounds

    def exemplars_at(self, step: int, draw: Draw, block: int, first: int) -> StepExemplars:
        """The exemplars of one step, whose rows are in the block, or about to be, from row `first` on."""
        rows = self.blocks[block, first : first + len(draw.owner)]
        return StepExemplars(step, draw, rows, block, first, self.draws)

    def uncount(self, rounds: int, exemplars: int) -> None:
        """Take so many rounds, which fetched so many exemplars, off the statistics: they will be run again."""
        self.times.rounds -= rounds
        self.times.exemplars -= exemplars

    def erase(self) -> None:
        """Zero the fetched rows. No round may be in flight."""
        self.delivery.erase()
        self._exchange.erase()
