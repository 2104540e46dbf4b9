"""The log of one rank, by round and by step: what it was offered, and the table that a round published.

Letters: n stored exemplars, C changes of slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from drb.rehearsal.ledger.block import Block
from drb.rehearsal.ledger.dealt import DealtStream
from drb.rehearsal.ledger.file import RankLog
from drb.rehearsal.ledger.recorder import joined
from drb.types import Int64Array

_BLOCKS_AT_HAND = 32


@dataclass(frozen=True)
class Table:
    """What a rank's round published: ids by slot and, where they are counted, strata, int64 [n]; the strata that there
    had been, int64 ascending; the rank's distinct offers, and r.
    """

    ids: Int64Array
    strata: Int64Array
    seen: Int64Array
    offered: int
    exemplars: int

    def by_position(self, *, by_stratum: bool) -> Int64Array:
        """The ids in the order of the table that peers read, int64 [n]."""
        return self.ids[np.argsort(self.strata, kind="stable")] if by_stratum else self.ids


class RankReplay:
    """The log of one rank, by round and by step."""

    def __init__(self, log: RankLog, tasks: Sequence[Int64Array]) -> None:
        self.log = log
        self._stream = DealtStream(log.rules.rank, tasks)
        self._stream.stretches = log.stretches
        self.block = lru_cache(_BLOCKS_AT_HAND)(self._block)
        self._offered = lru_cache(2)(self._offered_in)

    def _block(self, number: int) -> Block:
        return Block.of(self.log.blocks[number])

    def offered(self, step: int) -> Int64Array:
        """The ids that the rank was offered in a step, int64 [b].

        Raises:
            ValueError: the log lacks the step.
        """
        for number, entry in enumerate(self.log.entries):
            if entry.begin <= step < entry.end:
                ids, rows = self._offered(number)
                first = int(rows[: step - entry.begin].sum())
                return ids[first : first + int(rows[step - entry.begin])]
        raise ValueError(f"the ledger lacks what was offered in step {step} of the rehearsal")

    def offered_of(self, sample_ids: Int64Array) -> dict[int, list[int]]:
        """The steps in which each of these samples was offered, by sample id, without those that never were."""
        found: dict[int, list[int]] = {}
        for number, entry in enumerate(self.log.entries):
            ids, rows = self._offered(number)
            places = np.flatnonzero(np.isin(ids, sample_ids))
            steps = entry.begin + np.searchsorted(np.cumsum(rows), places, side="right")
            for sample_id, step in zip(ids[places].tolist(), steps.tolist(), strict=True):
                found.setdefault(sample_id, []).append(step)
        return found

    def rows_offered(self) -> tuple[Int64Array, Int64Array]:
        """The steps of which it is known how many rows the rank was offered, and how many those are, int64 [n] each."""
        entries = self.log.entries
        steps = [np.arange(entry.begin, entry.end) for entry in entries]
        return joined(steps), joined([self._offered(number)[1] for number in range(len(entries))])

    def sizes(self) -> Int64Array:
        """Return step, lateness, r and n of every round, in the order in which they were run: int64 [N, 4]."""
        blocks = map(self._block, range(len(self.log.entries)))
        columns = [np.column_stack((b.step, b.late, b.exemplars, b.size)) for b in blocks]
        return np.concatenate([np.empty((0, 4), np.int64), *columns])

    def _offered_in(self, number: int) -> tuple[Int64Array, Int64Array]:
        """What was offered in the steps of a block: ids, and rows of each."""
        entry = self.log.entries[number]
        if not entry.is_dealt:
            block = self.block(number)
            return block.offered_ids, block.rows
        dealt = self._stream.ids(entry.begin, entry.end)
        if dealt is None or len(dealt[0]) != entry.rows:
            raise ValueError(f"the ledger is damaged: steps {entry.begin} to {entry.end - 1} are of no task")
        return dealt

    def changed_ids(self, number: int) -> Int64Array:
        """The samples that took slots in a block, int64 [C]."""
        block, entries = self.block(number), self.log.entries
        is_other = block.place < 0
        ids = np.empty(len(block.place), np.int64)
        ids[is_other] = block.others
        places = block.place[~is_other]
        if len(places):
            first = number
            while entries[first].place > places.min():
                first -= 1
            stream = np.concatenate([self._offered(i)[0] for i in range(first, number + 1)])
            ids[~is_other] = stream[places - entries[first].place]
        return ids

    def find(self, step: int, used_in: int) -> tuple[int, int] | None:
        """The block and the number in it of the round that drew for `step`, …, for use in `used_in`; None if none did.

        If it was run again, the last time before that counts.
        """
        found = None
        for number, entry in enumerate(self.log.entries):
            if entry.rounds and entry.first <= step <= entry.last:
                block = self.block(number)
                is_it = (block.step == step) & ((block.late == 0) | (step + block.late <= used_in))
                if is_it.any():
                    found = number, int(np.flatnonzero(is_it)[-1])
        return found

    def table(self, number: int, index: int) -> Table:
        """What round `index` of a block published."""
        first = number
        while first and not self.log.entries[first].has_table:
            first -= 1
        state = _State.of(self.block(first), self.log.rules.capacity)
        for each in range(first, number):
            state.apply(self.block(each), self.changed_ids(each), 0, None)
        block = self.block(number)
        state.apply(block, self.changed_ids(number), 0, int(block.changes[: index + 1].sum()))
        return state.table(block, index)

    def rounds(self) -> Iterator[tuple[int, int, Table]]:
        """Every round in the order in which they were run: its step, how late it was run, and what it published.

        A table's arrays are valid until the next one.
        """
        if not self.log.entries:
            return
        state = _State.of(self.block(0), self.log.rules.capacity)
        for number in range(len(self.log.entries)):
            block, ids = self.block(number), self.changed_ids(number)
            ends = np.cumsum(block.changes).tolist()
            for index, (step, late) in enumerate(zip(block.step.tolist(), block.late.tolist(), strict=True)):
                state.apply(block, ids, ends[index] - int(block.changes[index]), ends[index])
                yield step, late, state.table(block, index)


class _State:
    """A table that changes. ids, strata: int64 [M]. seen: all strata so far, ascending."""

    def __init__(self, capacity: int) -> None:
        self.ids, self.strata = np.zeros((2, capacity), np.int64)
        self.seen: Int64Array = np.empty(0, np.int64)

    @classmethod
    def of(cls, block: Block, capacity: int) -> _State:
        """Return what there was before a block that has a table, or before the first one."""
        state = cls(capacity)
        state.ids[: len(block.table_ids)] = block.table_ids
        state.strata[: len(block.table_strata)] = block.table_strata
        state.seen = block.seen
        return state

    def apply(self, block: Block, ids: Int64Array, begin: int, end: int | None) -> None:
        """Changes begin … end - 1 of a block. ids: of all its changes."""
        if begin == end:
            return
        slots = block.slot[begin:end]
        self.ids[slots] = ids[begin:end]  # of a slot that comes twice the last one counts
        if len(block.stratum):
            self.strata[slots] = block.stratum[begin:end]
            self.seen = np.union1d(self.seen, block.stratum[begin:end])

    def table(self, block: Block, index: int) -> Table:
        size = int(block.size[index])
        strata, offered, exemplars = self.strata[:size], int(block.offered[index]), int(block.exemplars[index])
        return Table(self.ids[:size], strata, self.seen, offered, exemplars)
