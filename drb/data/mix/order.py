"""Which sample a source's number j is: every epoch another order, with owners that stay.

A sample's *place* is its position in a fixed permutation of the source; its virtual owner is the place mod V, and the
rank that trains it is that mod W, for every W that divides V. Within an epoch the owners take turns, and each serves
its own samples in an order that is the epoch's. So a source meets every rank evenly, no sample ever changes its owner,
and the order does not depend on W. A source that has grown keeps its places; its new samples are permuted among
themselves.

In a source of at most V samples each owner has one, so that the order is the same in every epoch.

Letters: j a sample's number in the source, counted over all epochs; i its number in its epoch; n samples in the source;
V virtual owners; W ranks; Q = ceil(n / V), the most samples that an owner has.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drb.data.mix.keyed import LARGEST_TABLE, table, walk
from drb.seeding import derive_seed, mix64, mix64_int
from drb.types import Int64Array, UInt64Array

VIRTUAL_OWNERS = 48
STREAM_LENGTH = 1 << 44  # more than will ever be read
_FEW_EPOCHS = 8


@dataclass(frozen=True)
class Size:
    """From number `first` on, with which epoch number `epoch` begins, the source has `count` samples."""

    first: int
    count: int
    epoch: int = 0


class SourceOrder:
    """The order of one source, as a function of the seed, the source's number and its sizes."""

    def __init__(self, seed: int, source: int, sizes: Sequence[Size]) -> None:
        self._key = np.uint64(derive_seed(seed, "mix epoch", source))
        self._place_key = derive_seed(seed, "mix place", source)
        self.sizes = list(sizes)
        self._tables: dict[tuple[int, int, range], Int64Array] = {}
        self._fixed: dict[tuple[int, int], Int64Array] = {}

    # -- number to sample

    def owned(self, start: int, stop: int, rank: int, world_size: int) -> Int64Array:
        """The numbers in [start, stop) that belong to a rank, ascending int64."""
        return _concatenated([self._owned(size, *part, rank, world_size) for size, part in self._parts(start, stop)])

    def ranks(self, start: int, stop: int, world_size: int) -> Int64Array:
        """The rank of each number in [start, stop), int64, where the number of ranks divides V."""
        return _concatenated(
            [(np.arange(*part) - size.first) % size.count % world_size for size, part in self._parts(start, stop)]
        )

    def samples(self, numbers: Int64Array, rank: int = 0, world_size: int = 1) -> Int64Array:
        """The sample of each number, ascending int64 [m]: positions in the source, int64 [m].

        rank, world_size: whose numbers they are (see `owned`), so that other owners' orders need not be made.
        """
        if not len(numbers):
            return numbers
        found = [
            self._samples(
                size, numbers[slice(*np.searchsorted(numbers, part))], range(rank, VIRTUAL_OWNERS, world_size)
            )
            for size, part in self._parts(int(numbers[0]), int(numbers[-1]) + 1)
        ]
        return _concatenated(found)

    def epoch_of(self, number: int) -> int:
        """The epoch that a number is in."""
        size = self._size_at(number)
        return size.epoch + (number - size.first) // size.count

    def epoch_end(self, number: int) -> int:
        """The first number at or after this one with which an epoch begins."""
        size = self._size_at(number)
        return size.first - (size.first - number) // size.count * size.count

    # -- sample to number

    def numbers(self, sample: int, stop: int) -> Int64Array:
        """The numbers below `stop` at which a sample comes, ascending int64."""
        return _concatenated([self._numbers(size, *part, sample) for size, part in self._parts(0, stop)])

    def _parts(self, start: int, stop: int) -> list[tuple[Size, tuple[int, int]]]:
        """The sizes that hold in [start, stop), and where each does."""
        ends = [*(size.first for size in self.sizes[1:]), stop]
        parts = [(size, (max(start, size.first), min(stop, end))) for size, end in zip(self.sizes, ends, strict=True)]
        return [(size, part) for size, part in parts if part[0] < part[1]]

    def _size_at(self, number: int) -> Size:
        return next(size for size in reversed(self.sizes) if size.first <= number)

    def _owned(self, size: Size, start: int, stop: int, rank: int, world_size: int) -> Int64Array:
        first_epoch, last_epoch = ((number - size.first) // size.count for number in (start, stop - 1))
        if last_epoch - first_epoch > _FEW_EPOCHS:
            numbers = np.arange(start, stop)
            own: Int64Array = numbers[(numbers - size.first) % size.count % VIRTUAL_OWNERS % world_size == rank]
            return own
        found = []
        for epoch in range(first_epoch, last_epoch + 1):
            begin = size.first + epoch * size.count
            at = max(start, begin)
            found.append(np.arange(at + (rank - (at - begin)) % world_size, min(stop, begin + size.count), world_size))
        return _concatenated(found)

    def _samples(self, size: Size, numbers: Int64Array, among: range) -> Int64Array:
        epochs, within = np.divmod(numbers - size.first, size.count)
        turns, owners = np.divmod(within, VIRTUAL_OWNERS)
        places = self._shuffled(epochs + size.epoch, owners, turns, size.count, among) * VIRTUAL_OWNERS + owners
        samples: Int64Array = self._fixed_order(places, size)
        return samples

    def _numbers(self, size: Size, start: int, stop: int, sample: int) -> Int64Array:
        if sample >= size.count:
            return np.empty(0, np.int64)
        turn, owner = divmod(int(self._fixed_order(np.array([sample]), size, back=True)[0]), VIRTUAL_OWNERS)
        epochs = np.arange((start - size.first) // size.count, (stop - 1 - size.first) // size.count + 1)
        own = _own_count(size.count, owner)
        keys = self._keys(epochs + size.epoch, np.full(len(epochs), owner))
        if _most(size.count) > LARGEST_TABLE:
            turns = walk(np.full(len(epochs), turn), own, keys, largest=_most(size.count), back=True)
        else:
            turns = np.concatenate(
                [np.argmax(table(own, keys[at : at + 64]) == turn, axis=1) for at in range(0, len(keys), 64)]
            )
        numbers = size.first + epochs * size.count + turns * VIRTUAL_OWNERS + owner
        return numbers[(numbers >= start) & (numbers < stop)]

    # -- the two permutations

    def _shuffled(
        self, epochs: Int64Array, owners: Int64Array, turns: Int64Array, count: int, among: range
    ) -> Int64Array:
        """Which of its samples an owner, one of `among`, serves at its turn, int64 [m] in [0, Q)."""
        if _most(count) > LARGEST_TABLE:
            own = np.where(owners < _full(count), _most(count), _most(count) - 1)
            return walk(turns, own, self._keys(epochs, owners), largest=_most(count))
        first, last = int(epochs[0]), int(epochs[-1])
        tables = self._tables_of(first, last, count, among)
        rows = (owners - among.start) // among.step
        if first == last:
            return tables[0][rows, turns]
        return np.stack(tables)[epochs - first, rows, turns]

    def _tables_of(self, first: int, last: int, count: int, among: range) -> list[Int64Array]:
        """The order of each owner of `among`, int64 [len(among), Q], in each epoch of [first, last]."""
        wanted = [(epoch, count, among) for epoch in range(first, last + 1)]
        missing = np.array([key[0] for key in wanted if key not in self._tables], np.int64)
        if len(missing):
            self._tables = {key: self._tables[key] for key in wanted if key in self._tables}
            owners = np.array(among)
            keys = self._keys(np.repeat(missing, len(owners)), np.tile(owners, len(missing)))
            keys = keys.reshape(len(missing), len(owners))
            orders = np.empty((*keys.shape, _most(count)), np.int64)
            full = int(np.searchsorted(owners, _full(count)))
            orders[:, :full] = table(_most(count), keys[:, :full])
            orders[:, full:, :-1] = table(_most(count) - 1, keys[:, full:])
            new = zip(missing.tolist(), orders, strict=True)
            self._tables.update({(epoch, count, among): order for epoch, order in new})
        return [self._tables[key] for key in wanted]

    def _keys(self, epochs: Int64Array, owners: Int64Array) -> UInt64Array:
        """A key for each epoch and owner, uint64 [m]."""
        keys: UInt64Array = mix64(mix64(epochs.astype(np.uint64) ^ self._key) ^ owners.astype(np.uint64))
        return keys

    def _fixed_order(self, places: Int64Array, size: Size, *, back: bool = False) -> Int64Array:
        """The sample at each place, int64 [m], or, back, the place of each sample."""
        bounds = [0, *(each.count for each in self.sizes if each.first <= size.first)]
        if len(bounds) == 2:
            return self._permuted(places, 0, size.count, back)
        result = np.empty_like(places)
        for start, stop in itertools.pairwise(bounds):
            inside = (places >= start) & (places < stop)
            result[inside] = self._permuted(places[inside] - start, start, stop - start, back) + start
        return result

    def _permuted(self, places: Int64Array, start: int, count: int, back: bool) -> Int64Array:
        key = np.array([mix64_int(self._place_key ^ start)], np.uint64)
        if count > LARGEST_TABLE:
            return walk(places, count, key, largest=count, back=back)
        if (start, count) not in self._fixed:
            self._fixed[start, count] = table(count, key)[0]
        fixed = self._fixed[start, count]
        return np.argsort(fixed)[places] if back else fixed[places]


class StreamOrder(SourceOrder):
    """The order of a stream: number j is its sample j, of virtual owner j mod V. It has no end and no second epoch."""

    def __init__(self) -> None:
        super().__init__(0, 0, [Size(0, STREAM_LENGTH)])

    def samples(self, numbers: Int64Array, rank: int = 0, world_size: int = 1) -> Int64Array:
        return numbers

    def numbers(self, sample: int, stop: int) -> Int64Array:
        return np.arange(sample, min(sample + 1, stop))


@dataclass
class MixedPart:
    """A source of a mix.

    max_visits: epochs after which it is not served any more; None: no bound.
    fingerprints: of its data, one for each of its sizes; '' if unknown.
    """

    name: str
    max_visits: int | None
    order: SourceOrder
    fingerprints: list[str]

    @property
    def count(self) -> int:
        """How many samples it has; of a stream, more than will ever come."""
        return self.order.sizes[-1].count

    @property
    def is_stream(self) -> bool:
        """Whether its samples come once each, in their own order, without an end."""
        return isinstance(self.order, StreamOrder)

    @property
    def last(self) -> int | None:
        """How many samples it serves in all; None: no bound."""
        size = self.order.sizes[-1]
        return None if self.max_visits is None else size.first + max(self.max_visits - size.epoch, 0) * size.count


def _most(count: int) -> int:
    return -(-count // VIRTUAL_OWNERS)


def _full(count: int) -> int:
    """How many virtual owners have Q samples; those after them have one less."""
    return (count - 1) % VIRTUAL_OWNERS + 1


def _own_count(count: int, owner: int) -> int:
    """How many samples a virtual owner has."""
    return (count - owner - 1) // VIRTUAL_OWNERS + 1


def _concatenated(parts: Sequence[Int64Array]) -> Int64Array:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
