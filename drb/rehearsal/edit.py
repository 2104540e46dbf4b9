"""Rewriting what is stored, between two steps, on all ranks together: `Rehearsal.edit`.

    with rehearsal.edit() as edit:                              # every rank enters
        for stored in edit.stored("image", rows=256):           # this rank's exemplars, a few at a time
            edit.rewrite("logits", network(stored.fields["image"]), stored.sample_id)
        edit.remove(worst_ids)
        edit.insert(minibatch, keys=places)                     # and leaves

Entering waits for the rounds in flight and for all ranks, so that nobody reads a peer's rows until the end. Inside,
each rank edits its own exemplars, as often as it likes; a checkpoint that is still being written keeps what it was
begun with. Leaving is collective again: samples for which their rank has no room go to the least filled ranks, and the
rounds that were fetched ahead are run again, so that the next step already sees what was written. An edit that changes
nothing on any rank leaves the run as it was, bit for bit.

What is removed is not erased and may come back when it is offered again; `Rehearsal.forget` is for that.

Letters: n exemplars, B rows of a minibatch, K words of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.buffer.admission import Offer
from drb.buffer.editing import EditableBuffer
from drb.buffer.record import RecordSpec
from drb.buffer.staged import pack_records
from drb.exchange import Peers
from drb.rehearsal.intake import Intake, on_cpu
from drb.rehearsal.selection import SampleIds, as_ids
from drb.rehearsal.settings import RehearsalSettings
from drb.types import Int64Array, Minibatch, UInt64Array

_CHUNK_BYTES = 1 << 24  # of decoded rows that `stored` gives together


@dataclass(frozen=True)
class Stored:
    """Some exemplars of this rank, all copies on the CPU.

    sample_id, stratum, admitted: int64 [n]; admitted is the step in which a sample was offered.
    key: uint64 [n], by which admission compares. known: as in `Exemplars`. fields: those that were asked for, [n, …].
    """

    sample_id: Tensor
    stratum: Tensor
    admitted: Tensor
    key: UInt64Array
    known: Minibatch
    fields: Minibatch

    def __len__(self) -> int:
        return len(self.sample_id)


class Edit:
    """What one rank changes in its buffer while all ranks edit theirs. Valid inside its `with` block.

    has_changed: whether anything was written, removed or inserted here.
    """

    def __init__(
        self, buffer: EditableBuffer, spec: RecordSpec, intake: Intake, settings: RehearsalSettings, step: int
    ) -> None:
        self.has_changed = False
        self._buffer = buffer
        self._spec = spec
        self._intake = intake
        self._settings = settings
        self._step = step
        self._sorted: tuple[Int64Array, Int64Array] | None = None  # ids ascending, and their slots
        self._without_room: list[Int64Array] = []  # [n, K + 1]: records, and their keys
        self._is_over = False

    @property
    def sample_ids(self) -> Int64Array:
        """Ids of this rank's exemplars, in the order in which `stored` gives them: int64 [n], a copy."""
        self._require_open()
        return self._buffer.sample_ids()

    def may_store(self, sample_ids: Tensor) -> Tensor:
        """Return which of these samples, int64 [n], were not forgotten: bool [n]."""
        return ~torch.isin(sample_ids.cpu(), torch.from_numpy(self._buffer.denied))

    def stored(self, *fields: str, rows: int | None = None) -> Iterator[Stored]:
        """Read this rank's exemplars, a few at a time. Do not remove or insert any before the last was read.

        Args:
            fields: the names of the fields that are wanted.
            rows: how many exemplars are given together; None: about 16 MiB.
        Raises:
            ValueError: no such field, or exemplars were removed or inserted meanwhile.
        """
        self._require_open()
        for name in fields:
            self._require_field(name)
        rows = max(1, _CHUNK_BYTES // self._spec.decoded_bytes) if rows is None else rows
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        index, buffer = self._index(), self._buffer
        for start in range(0, buffer.size, rows):
            if self._sorted is not index:
                raise ValueError("exemplars were removed or inserted while stored() was being read: read it first")
            slots = np.arange(start, min(start + rows, buffer.size))
            yield Stored(
                sample_id=torch.from_numpy(buffer.column("sample_id", slots)),
                stratum=torch.from_numpy(buffer.column("stratum", slots)),
                admitted=torch.from_numpy(buffer.column("admitted_round", slots)),
                key=buffer.column("key", slots),
                known=buffer.known(slots),
                fields={name: buffer.read(name, slots) for name in fields},
            )

    def rewrite(self, field: str, values: Tensor, sample_ids: SampleIds | None = None) -> None:
        """Write one field of this rank's exemplars anew.

        Args:
            field: its name; not the field by which exemplars are counted.
            values: [n, …] in the field's dtype, on any device; for a growing field perhaps with fewer columns.
            sample_ids: whose values these are, n distinct ones; None: all of them, in the order of `sample_ids`.
        Raises:
            ValueError: no such field, values that do not fit it, or an id that is not stored here; nothing was written.
        """
        self._require_open()
        self._require_field(field)
        if field == self._settings.stratum:
            raise ValueError(f"exemplars are counted by the field {field!r}: remove them and insert them anew")
        values = values.detach().cpu()
        ids = self.sample_ids if sample_ids is None else _in_order(sample_ids)
        if not self._spec.fields[field].takes(values, len(ids)):
            raise ValueError(
                f"the field {field!r} is {self._spec.fields[field]} a sample, got {values.dtype} {list(values.shape)} "
                f"for {len(ids)} exemplars"
            )
        slots = np.arange(len(ids)) if sample_ids is None else self._slots_of(ids)
        if len(slots):
            self.has_changed = True
            self._buffer.rewrite(field, values, slots)

    def remove(self, sample_ids: SampleIds) -> int:
        """Remove samples from this rank's buffer; those that it does not store are ignored. How many were removed."""
        self._require_open()
        slots = self._buffer.slots_of(as_ids(sample_ids))
        if len(slots):
            self.has_changed, self._sorted = True, None
            self._buffer.remove(slots)
        return len(slots)

    def insert(self, minibatch: Minibatch, keys: Any | None = None) -> None:
        """Store samples, whatever the admission policy would decide; those that are stored here or were forgotten stay.

        What this rank has no room for goes to the least filled ranks when the edit ends.

        Args:
            minibatch: as for `Rehearsal.extend`, on any device, with all late fields that every record must have.
            keys: integers [B] from 0 on by which the policy compares them, such as the place in a ranked list; None:
                as if they had been offered.
        Raises:
            ValueError: fields that differ from the schema, or wrong keys; nothing was inserted.
        """
        self._require_open()
        offer, rows = self._pack(on_cpu(minibatch), keys)
        self._insert(offer, rows)

    # -- the end, on all ranks together

    @property
    def num_without_room(self) -> int:
        """The number of samples for which this rank has no room."""
        return sum(map(len, self._without_room))

    @property
    def room(self) -> int:
        """The number of exemplars that this rank could take."""
        return self._buffer.capacity - self._buffer.size

    def send_on(self, peers: Peers, waiting: Int64Array, room: Int64Array) -> None:
        """Give samples without room to the least filled ranks. Collective.

        waiting, room: every rank's `num_without_room` and `room`, int64 [W]; the latter are enough.
        """
        words = self._spec.words + 1
        rows = np.concatenate([np.zeros((0, words), np.int64), *self._without_room])
        everyones = np.concatenate(peers.share(rows.reshape(-1), waiting * words)).reshape(-1, words)
        own = everyones[_deal(len(everyones), room) == peers.rank]
        records = np.ascontiguousarray(own[:, :-1])
        header = records.T  # the first words: id, stratum, step
        self._insert(Offer(header[0].copy(), header[1].copy(), own[:, -1].copy().view(np.uint64), self._step), records)

    def close(self) -> None:
        """Nothing is edited any more."""
        self._is_over = True

    # -- behind the scenes

    def _insert(self, offer: Offer, rows: Int64Array) -> None:
        self.has_changed, self._sorted = True, None
        left = self._buffer.insert(rows, offer)
        if len(left):
            self._without_room.append(np.column_stack((rows[left], offer.key[left].view(np.int64))))

    def _pack(self, minibatch: Minibatch, keys: Any | None) -> tuple[Offer, Int64Array]:
        """The offer of a minibatch, and its records."""
        spec, num_rows = self._spec, len(next(iter(minibatch.values())))
        late = {name: value for name, value in minibatch.items() if name in spec.late}
        prompt = {name: value for name, value in minibatch.items() if name not in late}
        spec.check(late, num_rows, late=True)
        given = None if keys is None else _keys(keys, num_rows)
        offer, fields = self._intake.take(prompt, spec, num_rows, max(self._step, 0))
        if given is not None:
            offer = Offer(offer.sample_id, offer.stratum, given, offer.round)
        return offer, pack_records(spec, {**fields, **late}, offer)

    def _index(self) -> tuple[Int64Array, Int64Array]:
        if self._sorted is None:
            ids = self._buffer.sample_ids()
            order = np.argsort(ids)
            self._sorted = ids[order], order
        return self._sorted

    def _slots_of(self, ids: Int64Array) -> Int64Array:
        stored, slots = self._index()
        at = np.minimum(np.searchsorted(stored, ids), max(len(stored) - 1, 0))
        missing = ids[stored[at] != ids] if len(stored) else ids
        if len(missing):
            raise ValueError(f"sample {missing[0]} is not stored on this rank; rewrite() takes ids of this rank's own")
        if len(np.unique(ids)) < len(ids):
            raise ValueError("rewrite() was given a sample id twice")
        return slots[at]

    def _require_field(self, name: str) -> None:
        if name not in self._spec.fields:
            raise ValueError(f"records have no field {name!r}; they have {sorted(self._spec.fields)}")

    def _require_open(self) -> None:
        if self._is_over:
            raise ValueError("this edit is over: use it inside `with rehearsal.edit() as edit:`")


@contextmanager
def told_on_all_ranks(peers: Peers | None, what: str) -> Iterator[dict[str, Any]]:
    """Whether a block failed on some rank is told on all when it ends. Collective: a barrier.

    The block gets a mapping of integers that is told, too: afterwards "ranks" has every rank's, in order.

    Raises:
        ValueError: the block failed on another rank, which is named. On this rank its own error is raised.
    """
    told: dict[str, Any] = {}
    error: Exception | None = None
    try:
        yield told
    except Exception as caught:
        error = caught
    mine = {"problem": "" if error is None else f"{type(error).__name__}: {error}", **told}
    ranks = [mine] if peers is None else peers.gather_json(mine, what)
    told["ranks"] = ranks
    if error is not None:
        raise error
    for rank, others in enumerate(ranks):
        if others["problem"]:
            raise ValueError(f"{what} failed on rank {rank}: {others['problem']}")


def _deal(count: int, room: Int64Array) -> Int64Array:
    """Ranks for so many samples, one after the other to the rank with the most room: int64 [count], ascending."""
    # the places of each rank, emptiest first: a rank with 5 left gives places 5, 4, 3, 2, 1
    places = np.concatenate([np.arange(left, 0, -1) for left in room])
    ranks = np.repeat(np.arange(len(room)), room)
    return np.sort(ranks[np.lexsort((ranks, -places))[:count]])


def _in_order(sample_ids: SampleIds) -> Int64Array:
    as_ids(sample_ids)  # refuses what is no integer
    values = sample_ids.detach().cpu().numpy() if isinstance(sample_ids, Tensor) else np.asarray(sample_ids)
    return np.atleast_1d(values).astype(np.int64)


def _keys(keys: Any, num_rows: int) -> UInt64Array:
    values = keys.detach().cpu().numpy() if isinstance(keys, Tensor) else np.asarray(keys)
    if values.shape != (num_rows,) or values.dtype.kind not in "iu" or (values < 0).any():
        raise ValueError(
            f"keys must be integers from 0 on, one for each of {num_rows} rows, got {values.dtype} {list(values.shape)}"
        )
    return values.astype(np.uint64)


def total_of(told: Mapping[str, Any], name: str) -> Int64Array:
    """Every rank's integer of this name: int64 [W]."""
    return np.array([rank.get(name, 0) for rank in told["ranks"]], np.int64)
