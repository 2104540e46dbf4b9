"""Mean matching: keep the exemplars of each class whose mean is nearest to the mean of all that was seen of the class.

This is the herding of iCaRL (arXiv 1611.07725) made online. Counts are level over the classes, as in the class-balanced
reservoir. When a class has to give exemplars up, those go, one after the other, without which the mean of the rest lies
nearest to the class's running mean. The vectors are a field of the records: images as they are stored, or what the
training loop attaches, such as the network's features. A sample that is offered again counts again in the mean.

Decisions depend only on what this rank was offered, in its order, so nothing travels between ranks. On W ranks every
buffer matches the mean of its own share of the data with M / W exemplars.

Letters: n exemplars and offered samples of one class, D numbers of a vector, k exemplars that go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.buffer.admission.base import (
    NOTHING,
    Admission,
    Columns,
    Decision,
    Gathered,
    Offer,
    Removal,
    State,
    fill_holes,
    is_ascending,
    require_state,
    slots_for,
)
from drb.buffer.admission.class_balanced import surplus_of_strata
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

    The state is the count and the sum of what was offered of each class.

    field: the field that is compared, with numbers of any shape; a late one such as logits is waited for.
    """

    name = "mean_matching"
    needs_strata = True
    refills_always = True
    field: str = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen: dict[int, _Seen] = {}
        self._pool = torch.empty((0, 0))

    @property
    def reads(self) -> Sequence[str]:
        return (self.field,)

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
            stays = self._staying(strata, columns, vectors[torch.from_numpy(rows)])
            evicted, rows = np.flatnonzero(~stays[:size]), rows[stays[size:]]
        return Decision(rows, slots_for(columns, rows.size, evicted))

    def _staying(self, strata: Int64Array, columns: Columns, offered: Tensor) -> BoolArray:
        """Which of the stored exemplars and the offered vectors [A, D] that follow them stay: bool [size + A]."""
        stays = np.ones(len(strata), np.bool_)
        for stratum, surplus in surplus_of_strata(strata, columns.capacity).items():
            members = np.flatnonzero(strata == stratum)
            slots = members[members < columns.size]
            pool = self._pool_of(len(members), offered.shape[1])
            pool[: len(slots)] = _as_vectors(columns.stored(self.field, slots))
            pool[len(slots) :] = offered[torch.from_numpy(members[len(slots) :] - columns.size)]
            stays[members[least_needed(pool.numpy(), self._seen[stratum].mean, surplus)]] = False
        return stays

    def _pool_of(self, rows: int, numbers: int) -> Tensor:
        """Memory for the vectors of a class, float32 [rows, numbers], which is used again."""
        if len(self._pool) < rows:
            self._pool = torch.empty((_with_reserve(rows), numbers))
        return self._pool[:rows]

    def insert(self, columns: Columns, offer: Offer) -> Decision:
        self._count(columns, offer, _as_vectors(offer.fields[self.field]))
        return super().insert(columns, offer)

    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        return fill_holes(columns.size, slots)

    def forget(self, columns: Columns) -> None:
        """The means are those of what is left, since samples that were forgotten are in the sums, stored or not."""
        strata = columns.stratum[: columns.size]
        seen = {}
        for stratum in np.unique(strata).tolist():
            stored = _as_vectors(columns.stored(self.field, np.flatnonzero(strata == stratum))).double().numpy()
            count = max(self._seen[stratum].weight, len(stored)) if stratum in self._seen else len(stored)
            seen[stratum] = _Seen(count, count * stored.mean(0))
        self._seen = seen

    def state_dict(self) -> State:
        strata = sorted(self._seen)
        totals = [self._seen[stratum].total for stratum in strata]
        return {
            "strata": np.array(strata, np.int64),
            "counts": np.array([self._seen[stratum].weight for stratum in strata], np.float64),
            "totals": np.stack(totals) if totals else np.zeros((0, 0)),
        }

    def load_state_dict(self, state: State) -> None:
        strata, counts, totals = state["strata"], state["counts"], state["totals"]
        require_state(is_ascending(strata), "strata")
        require_state(counts.dtype == np.float64 and counts.shape == strata.shape, "counts")
        require_state(bool((counts > 0).all()), "counts")
        require_state(totals.dtype == np.float64 and totals.ndim == 2 and len(totals) == len(strata), "totals")
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
            stays[members[least_needed(vectors, merged._seen[stratum].mean, surplus)]] = False
        return np.flatnonzero(stays), merged.state_dict()

    def _count(self, columns: Columns, offer: Offer, vectors: Tensor) -> None:
        """Samples were offered: they count in their classes' means, unless they are denied."""
        strata, counted = offer.stratum, vectors.double().numpy()
        if len(columns.denied):
            allowed = ~np.isin(offer.sample_id, columns.denied)
            strata, counted = strata[allowed], counted[allowed]
        for stratum in np.unique(strata).tolist():
            of_stratum = counted[strata == stratum]
            self._add(stratum, len(of_stratum), of_stratum.sum(0))

    def _add(self, stratum: int, count: float, total: Vectors) -> None:
        before = self._seen.get(stratum)
        self._seen[stratum] = (
            _Seen(count, total) if before is None else _Seen(before.weight + count, before.total + total)
        )


def least_needed(vectors: npt.NDArray[Any], mean: Vectors, num_dropped: int) -> Int64Array:
    """Return which vectors go so that the mean of the others stays near a given one: int64 [k], in the order they go.

    One vector goes at a time: that without which the mean of those left is nearest.

    Args:
        vectors: floating-point [n, D]; overwritten.
        mean: float64 [D].
        num_dropped: k, at most n.
    """
    offsets = np.subtract(vectors, mean.astype(vectors.dtype), out=vectors)
    off_balance = offsets.sum(0)  # of those left; without row j it is off_balance - offsets[j]
    squares = np.einsum("nd,nd->n", offsets, offsets)
    dropped: Int64Array = np.empty(num_dropped, np.int64)
    for i in range(num_dropped):
        change = squares - 2 * (offsets @ off_balance)  # of the square of its length
        change[dropped[:i]] = np.inf
        dropped[i] = change.argmin()
        off_balance -= offsets[dropped[i]]
    return dropped


def _with_reserve(rows: int) -> int:
    """Rows to allocate, so that a class that grows needs new memory now and then only."""
    return rows + rows // 4


def _as_vectors(values: Tensor) -> Tensor:
    """Return values [n, *shape] as [n, D]."""
    return values.flatten(1) if values.dim() > 1 else values[:, None]
