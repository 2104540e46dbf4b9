"""What one rank logs: what its rounds published, and what it was offered.

A round appends a few references; some hundred rounds are made into a block at once, on the thread that runs rounds. The
blocks lie in memory until a checkpoint is written (`take`).

Letters: N rounds, C changes of slots, D fetched steps, n stored exemplars, M capacity.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drb.buffer.positions import TableChange
from drb.buffer.record import SAMPLE_ID
from drb.rehearsal.exemplars import StepExemplars
from drb.rehearsal.ledger.block import Block
from drb.rehearsal.ledger.dealt import DealtStream, Stretch
from drb.types import Int64Array

ROUNDS_OF_A_BLOCK = 512
_CHANGES_OF_A_BLOCK = 1 << 15  # at most about so many, where each round changes much
_ROUNDS_BETWEEN_TABLES = 1 << 15
_CHANGES_BETWEEN_TABLES = 1 << 18
_NOTHING: Int64Array = np.empty(0, np.int64)


@dataclass(frozen=True)
class Rules:
    """What draws depend on besides what is stored: see `RehearsalSettings`. All but rank are alike on all ranks.

    proportions: their `identity`. by_stratum: whether tables are in the order of strata. run: whose it is, see
    `drb.rehearsal.state.origin`.
    """

    run: str
    rank: int
    world_size: int
    capacity: int
    seed: int
    depth: int
    interval: int
    draws: int
    min_fill: int
    proportions: dict[str, Any]
    by_stratum: bool


@dataclass(frozen=True)
class Entry:
    """What is known of a block without reading it.

    rounds: how many. first, last: the smallest and largest step among them. begin, end: the steps whose minibatches it
    has, begin … end - 1. place: of the first row that was offered in them; rows: how many there are.
    is_dealt: their ids are a formula. has_table: the table before the first round is in it. size_bytes: of the block.
    """

    rounds: int
    first: int
    last: int
    begin: int
    end: int
    place: int
    rows: int
    is_dealt: bool
    has_table: bool
    size_bytes: int


@dataclass
class Part:
    """What was logged between two checkpoints. tasks: names and sample ids, int64 [n].

    fetched: exemplars that a state brought: (step, int64 [r] ids) of each step that uses them.
    """

    entries: list[Entry] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    tasks: list[tuple[str, Int64Array]] = field(default_factory=list)
    fetched: list[tuple[int, Int64Array]] = field(default_factory=list)


@dataclass
class _Round:
    step: int
    late: int
    exemplars: int
    offered: int
    size: int
    change: tuple[Int64Array, Int64Array, Int64Array] | None  # slots, ids, strata: int64 [C] each


class Recorder:
    """One per rank, set as `Rehearsal.recorder` before the first minibatch.

    `round` is called on the thread that runs rounds, everything else on the training thread; `take` and `fetched` while
    no round is in flight.

    rules: None until the rehearsal runs. again_after: the last step that was taken, while rounds are run again.
    """

    def __init__(
        self, *, rounds_of_a_block: int = ROUNDS_OF_A_BLOCK, rounds_between_tables: int = _ROUNDS_BETWEEN_TABLES
    ) -> None:
        self.rules: Rules | None = None
        self.again_after: int | None = None
        self._rounds_of_a_block = rounds_of_a_block
        self._rounds_between_tables = rounds_between_tables
        self._part = Part()
        self._rounds: list[_Round] = []
        self._num_changes = 0
        self._offers: deque[tuple[int, Int64Array]] = deque()
        self._next_offer = 0
        self._place = 0  # of the next row
        self._carried: list[Int64Array] = []  # the ids of the last minibatches before the next block
        self._tasks: list[Int64Array] = []

    def begin(self, rules: Rules, rows: Any) -> None:
        """The rehearsal was built. rows: of its buffer, int64 [rows, K]."""
        self.rules, self._buffer_rows = rules, rows
        self._stream = DealtStream(rules.rank, self._tasks)
        self._stream.stretches = list(self._part.stretches)
        self._table = np.zeros((2, rules.capacity), np.int64)  # ids and strata
        self._size = 0
        self._seen: Int64Array = _NOTHING
        self._rounds_since = self._changes_since = 0

    # -- what happens

    def begin_task(self, name: str, sample_ids: Int64Array) -> int:
        """Samples of a task will be offered, in the order of its source: int64 [n]. Its number, for `Stretch`."""
        self._tasks.append(sample_ids)
        self._part.tasks.append((name, sample_ids))
        return len(self._tasks) - 1

    def begin_stretch(self, stretch: Stretch) -> None:
        """The next minibatches are those of a stretch."""
        self._part.stretches.append(stretch)
        if self.rules is not None:
            self._stream.stretches.append(stretch)

    def offer(self, step: int, sample_ids: Int64Array) -> None:
        """A minibatch was offered: int64 [b]."""
        self._offers.append((step, sample_ids.copy()))

    def round(self, step: int, exemplars: int, offered: int, change: TableChange) -> None:
        """A round has published its table and is about to draw."""
        late = 0 if self.again_after is None else self.again_after + 1 - step
        changed = None
        if len(change.slots):
            changed = (change.slots.copy(), self._buffer_rows[change.rows, SAMPLE_ID], change.strata.copy())
            self._num_changes += len(change.slots)
        self._rounds.append(_Round(step, late, exemplars, offered, change.size, changed))
        if len(self._rounds) >= self._rounds_of_a_block or self._num_changes >= _CHANGES_OF_A_BLOCK:
            self._seal(step + 1)

    def fetched(self, ready: Iterable[StepExemplars]) -> None:
        """A state brought these exemplars."""
        assert self.rules is not None
        ahead = self.rules.depth * self.rules.interval
        for exemplars in ready:
            self._part.fetched.append((exemplars.step + ahead, exemplars.rows[:, SAMPLE_ID].copy()))

    # -- what is kept

    def take(self) -> Part:
        """What was logged since the last call."""
        if self.rules is not None:
            self._seal(None)
        part, self._part = self._part, Part()
        return part

    def _seal(self, end: int | None) -> None:
        """Make a block of the rounds so far, and of the minibatches before step `end` (None: all)."""
        assert self.rules is not None
        rounds, self._rounds, self._num_changes = self._rounds, [], 0
        offers = []
        while self._offers and (end is None or self._offers[0][0] < end):
            offers.append(self._offers.popleft())
        if not rounds and not offers:
            return
        block = Block()
        columns = np.array([(r.step, r.late, r.exemplars, r.offered, r.size) for r in rounds], np.int64).reshape(-1, 5)
        block.step, block.late, block.exemplars, block.offered, block.size = columns.T.copy()
        changes = [each.change for each in rounds if each.change is not None]
        block.changes = np.array([0 if r.change is None else len(r.change[0]) for r in rounds], np.int64)
        block.slot, ids, strata = (joined([change[i] for change in changes]) for i in range(3))
        begin = offers[0][0] if offers else self._next_offer
        offered = [each for _, each in offers]
        rows, offered_ids = np.array([len(each) for each in offered], np.int64), joined(offered)
        is_dealt = self._is_dealt(begin, begin + len(offers), offered_ids, rows)
        if not is_dealt:
            block.rows, block.offered_ids = rows, offered_ids
        block.place, block.others = self._places(ids, offered_ids)
        if self.rules.by_stratum:
            block.stratum = strata
        has_table = self._is_table_due(len(rounds))
        if has_table:
            block.table_ids, block.table_strata = self._table[:, : self._size].copy()
            block.seen = self._seen
            if not self.rules.by_stratum:
                block.table_strata = _NOTHING
        data = block.to_bytes()
        first, last = (int(block.step.min()), int(block.step.max())) if rounds else (0, -1)
        entry = Entry(
            rounds=len(rounds),
            first=first,
            last=last,
            begin=begin,
            end=begin + len(offers),
            place=self._place,
            rows=len(offered_ids),
            is_dealt=is_dealt,
            has_table=has_table,
            size_bytes=len(data),
        )
        self._part.entries.append(entry)
        self._part.blocks.append(data)
        self._go_on(block.slot, ids, strata, offered)
        self._next_offer = entry.end
        if rounds:
            self._size = rounds[-1].size

    def _is_dealt(self, begin: int, end: int, ids: Int64Array, rows: Int64Array) -> bool:
        """Whether the formula gives what was offered in steps begin … end - 1."""
        stretches = self._stream.stretches  # the training thread may append to it meanwhile
        while stretches and stretches[0].end <= begin:
            del stretches[0]
        dealt = self._stream.ids(begin, end)
        return dealt is not None and np.array_equal(dealt[0], ids) and np.array_equal(dealt[1], rows)

    def _places(self, ids: Int64Array, offered: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Where these samples came last in the stream, int64 [C], -1 for those that did not; the ids of the latter."""
        if not len(ids):
            return _NOTHING, ids
        carried = joined(self._carried)
        stream = np.concatenate((carried, offered))
        wanted, which = np.unique(ids, return_inverse=True)
        at = np.searchsorted(wanted, stream)
        there = np.flatnonzero(wanted[np.minimum(at, len(wanted) - 1)] == stream)
        last: Int64Array = np.full(len(wanted), -1, np.int64)
        last[at[there]] = there + self._place - len(carried)  # of a sample that came twice the last one counts
        places = last[which]
        return places, ids[places < 0]

    def _is_table_due(self, rounds: int) -> bool:
        """Whether the next block gets a table: what is read to know a later one is then bounded."""
        assert self.rules is not None
        most = max(self.rules.capacity, _CHANGES_BETWEEN_TABLES)
        return self._rounds_since >= self._rounds_between_tables or self._changes_since >= most

    def _go_on(self, slots: Int64Array, ids: Int64Array, strata: Int64Array, offered: list[Int64Array]) -> None:
        """A block was made; what the next one is made from."""
        assert self.rules is not None
        last = self._part.entries[-1]
        if last.has_table:
            self._rounds_since = self._changes_since = 0
        self._rounds_since += last.rounds
        self._changes_since += len(slots)
        self._table[0, slots], self._table[1, slots] = ids, strata  # of a slot that comes twice the last one counts
        if self.rules.by_stratum and len(strata):
            self._seen = np.union1d(self._seen, strata)
        self._place += last.rows
        self._carried = [*self._carried, *offered][-(self.rules.interval + 1) :]


def joined(parts: Sequence[Int64Array]) -> Int64Array:
    """Arrays one behind the other; none are an empty one."""
    return np.concatenate(parts) if parts else _NOTHING
