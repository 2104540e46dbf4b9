"""Mean matching: keep the exemplars of each class whose mean is nearest to the mean of all that was seen of the class.

This is the herding of iCaRL (arXiv 1611.07725) made online. Counts are level over the classes, as in the class-balanced
reservoir. When a class has to give exemplars up, those go, one after the other, without which the mean of the rest lies
nearest to the class's running mean. The vectors are a field of the records: images as they are stored, or what the
training loop attaches, such as the network's features. A sample that is offered again counts again in the mean.

With `compared` only so many stored exemplars of a class, drawn anew each time, are compared with what is offered: the
cost of a decision then does not grow with the buffer, and is that of reading and decoding so many vectors.

Decisions depend only on what this rank was offered, in its order, so nothing travels between ranks. On W ranks every
buffer matches the mean of its own share of the data with M / W exemplars.

Letters: n compared exemplars and offered samples of one class, D numbers of a vector, k exemplars that go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.buffer.admission.base import Admission, Gathered, State, fill_holes, is_ascending, require_state, slots_for
from drb.buffer.admission.class_balanced import surplus_of_strata
from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Decision, Offer, Removal
from drb.options import setting
from drb.seeding import RoundGenerator
from drb.types import BoolArray, Int64Array

Vectors: TypeAlias = npt.NDArray[np.float64]


class _Seen(NamedTuple):
    """What was offered of a class: how many samples (a mean over ranks after resharding), their sum, float64 [D]."""

    weight: float
    total: Vectors

    @property
    def mean(self) -> Vectors:
        return self.total / self.weight


class MeanMatching(Admission):
    """Keep equally many exemplars of each class, those whose mean matches the mean of the class (online herding).

    The state has the count and the sum of what was offered of each class, and the sum of what is stored of it.

    field: the field that is compared, with numbers of any shape; a late one such as features is waited for.
    compared: stored exemplars of a class, at random, among which one is looked for that is least needed; None: all
    """

    name = "mean_matching"
    needs_strata = True
    refills_always = True
    field: str = "image"
    compared: int | None = setting(None, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen: dict[int, _Seen] = {}
        self._stored_sums: dict[int, Vectors] = {}
        self._pool = torch.empty((0, 0))

    @property
    def reads(self) -> Sequence[str]:
        return (self.field,)

    def begin(self, seed: int, rank: int) -> None:
        self._rng = RoundGenerator(seed, "mean_matching", rank)

    def memory_bytes(self, numbers: Mapping[str, int], rows: int) -> int:
        """The vectors of a class that holds everything, in float32."""
        return 4 * numbers.get(self.field, 0) * _with_reserve(rows)

    def admit(self, columns: Columns, offer: Offer) -> Decision:
        vectors = _as_vectors(offer.fields[self.field])
        self._count(columns, offer, vectors)
        rows = np.flatnonzero(columns.is_new(offer.sample_id))
        if not rows.size:
            return NOTHING
        size, evicted = columns.size, NOTHING.slots
        if size + rows.size > columns.capacity:
            strata = np.concatenate((columns.stratum[:size], offer.stratum[rows]))
            stays = self._staying(strata, columns, vectors[torch.from_numpy(rows)], offer.round)
            evicted, rows = np.flatnonzero(~stays[:size]), rows[stays[size:]]
            self._add_stored(columns.stratum[evicted], _as_vectors(columns.stored(self.field, evicted)), -1)
        self._add_stored(offer.stratum[rows], vectors[torch.from_numpy(rows)])
        return Decision(rows, slots_for(columns, rows.size, evicted))

    def _staying(self, strata: Int64Array, columns: Columns, offered: Tensor, round_: int) -> BoolArray:
        """Which of the stored exemplars and the offered vectors [A, D] that follow them stay: bool [size + A]."""
        stays = np.ones(len(strata), np.bool_)
        rng = None if self.compared is None else self._rng.at(round_)
        for stratum, surplus in surplus_of_strata(strata, columns.capacity).items():
            members = np.flatnonzero(strata == stratum)
            new = members[members >= columns.size]
            slots = members[: len(members) - len(new)]
            offered_S = offered[torch.from_numpy(new - columns.size)]
            mean = self._seen[stratum].mean
            off_balance = offered_S.double().sum(0).numpy() + self._stored_sums.get(stratum, 0.0) - len(members) * mean
            if rng is not None and self.compared is not None and len(slots) > self.compared:
                slots = rng.choice(slots, max(self.compared, surplus), replace=False)
            pool = self._pool_of(len(slots) + len(new), offered.shape[1])
            pool[: len(slots)] = _as_vectors(columns.stored(self.field, slots))
            pool[len(slots) :] = offered_S
            pick = least_needed(pool.numpy(), mean, off_balance, surplus)
            stays[np.concatenate((slots, new))[pick]] = False
        return stays

    def _pool_of(self, rows: int, numbers: int) -> Tensor:
        """Memory for the vectors of a class, float32 [rows, numbers], which is used again."""
        if len(self._pool) < rows:
            self._pool = torch.empty((_with_reserve(rows), numbers))
        return self._pool[:rows]

    def insert(self, columns: Columns, offer: Offer) -> Decision:
        vectors = _as_vectors(offer.fields[self.field])
        self._count(columns, offer, vectors)
        self._add_stored(offer.stratum, vectors)
        return super().insert(columns, offer)

    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        self._add_stored(columns.stratum[slots], _as_vectors(columns.stored(self.field, slots)), -1)
        return fill_holes(columns.size, slots)

    def forget(self, columns: Columns) -> None:
        """The means are those of what is left, since samples that were forgotten are in the sums, stored or not."""
        strata = columns.stratum[: columns.size]
        seen: dict[int, _Seen] = {}
        self._stored_sums = {}
        for stratum in np.unique(strata).tolist():
            stored = _as_vectors(columns.stored(self.field, np.flatnonzero(strata == stratum))).double().numpy()
            count = max(self._seen[stratum].weight, len(stored)) if stratum in self._seen else len(stored)
            seen[stratum] = _Seen(count, count * stored.mean(0))
            self._stored_sums[stratum] = stored.sum(0)
        self._seen = seen

    def state_dict(self) -> State:
        strata = sorted(self._seen)
        totals = [self._seen[stratum].total for stratum in strata]
        sums = [self._stored_sums.get(stratum, np.zeros_like(self._seen[stratum].total)) for stratum in strata]
        return {
            "strata": np.array(strata, np.int64),
            "counts": np.array([self._seen[stratum].weight for stratum in strata], np.float64),
            "totals": np.stack(totals) if totals else np.zeros((0, 0)),
            "stored_sums": np.stack(sums) if sums else np.zeros((0, 0)),
        }

    def load_state_dict(self, state: State) -> None:
        strata, counts, totals = state["strata"], state["counts"], state["totals"]
        require_state(is_ascending(strata), "strata")
        require_state(counts.dtype == np.float64 and counts.shape == strata.shape, "counts")
        require_state(bool((counts > 0).all()), "counts")
        require_state(totals.dtype == np.float64 and totals.ndim == 2 and len(totals) == len(strata), "totals")
        sums = state["stored_sums"]
        require_state(sums.dtype == np.float64 and sums.shape == totals.shape, "stored sums")
        self._stored_sums = {stratum: row.copy() for stratum, row in zip(strata.tolist(), sums, strict=True)}
        self._seen = {
            stratum: _Seen(float(count), total.copy())
            for stratum, count, total in zip(strata.tolist(), counts, totals, strict=True)
        }

    def reshard(
        self, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
    ) -> tuple[Int64Array, State]:
        """Each class's mean is that of what all ranks were offered, and weighs as much as it did on one of them."""
        assert gathered.stored is not None
        merged = MeanMatching(field=self.field)
        for state in states:
            for stratum, count, total in zip(state["strata"].tolist(), state["counts"], state["totals"], strict=True):
                merged._add(stratum, count / len(states), total / len(states))
        stays = np.ones(len(gathered), np.bool_)
        for stratum, surplus in surplus_of_strata(gathered.stratum, capacity).items():
            members = np.flatnonzero(gathered.stratum == stratum)
            vectors = _as_vectors(gathered.stored(self.field, members)).float().numpy()
            mean = merged._seen[stratum].mean
            off_balance = vectors.sum(0, np.float64) - len(vectors) * mean
            stays[members[least_needed(vectors, mean, off_balance, surplus)]] = False
        kept = np.flatnonzero(stays)
        merged._add_stored(gathered.stratum[kept], _as_vectors(gathered.stored(self.field, kept)))
        return kept, merged.state_dict()

    def _count(self, columns: Columns, offer: Offer, vectors: Tensor) -> None:
        """Samples were offered: they count in their classes' means, unless they are denied."""
        strata, counted = offer.stratum, vectors.double().numpy()
        if len(columns.denied):
            allowed = ~np.isin(offer.sample_id, columns.denied)
            strata, counted = strata[allowed], counted[allowed]
        for stratum in np.unique(strata).tolist():
            of_stratum = counted[strata == stratum]
            self._add(stratum, len(of_stratum), of_stratum.sum(0))

    def _add_stored(self, strata: Int64Array, vectors: Tensor, sign: int = 1) -> None:
        """Vectors [n, D] were stored or, with sign = -1, are stored no more."""
        numbers = vectors.double().numpy()
        for stratum in np.unique(strata).tolist():
            change = sign * numbers[strata == stratum].sum(0)
            self._stored_sums[stratum] = self._stored_sums.get(stratum, 0.0) + change

    def _add(self, stratum: int, count: float, total: Vectors) -> None:
        before = self._seen.get(stratum)
        self._seen[stratum] = (
            _Seen(count, total) if before is None else _Seen(before.weight + count, before.total + total)
        )


def least_needed(vectors: npt.NDArray[Any], mean: Vectors, off_balance: Vectors, num_dropped: int) -> Int64Array:
    """Return which vectors go so that the mean of a class stays near a given one: int64 [k], in the order they go.

    One vector goes at a time: that without which the mean of those left is nearest.

    Args:
        vectors: those of the class that may go, floating-point [n, D]; overwritten.
        mean: float64 [D].
        off_balance: the sum of all vectors of the class, less the mean times their number, float64 [D].
        num_dropped: k, at most n.
    """
    offsets = np.subtract(vectors, mean.astype(vectors.dtype), out=vectors)
    left = off_balance.astype(offsets.dtype)  # of those left; without row j it is left - offsets[j]
    squares = np.einsum("nd,nd->n", offsets, offsets)
    dropped: Int64Array = np.empty(num_dropped, np.int64)
    for i in range(num_dropped):
        change = squares - 2 * (offsets @ left)  # of the square of its length
        change[dropped[:i]] = np.inf
        dropped[i] = change.argmin()
        left -= offsets[dropped[i]]
    return dropped


def _with_reserve(rows: int) -> int:
    """Rows to allocate, so that a class that grows needs new memory now and then only."""
    return rows + rows // 4


def _as_vectors(values: Tensor) -> Tensor:
    """Return values [n, *shape] as [n, D]."""
    return values.flatten(1) if values.dim() > 1 else values[:, None]
