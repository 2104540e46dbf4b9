"""The global sampler: this rank's exemplars of a round, drawn from the union of all ranks' buffers.

Every rank draws only its own, from counts that all ranks know. A group is drawn from without replacement; groups
share r as q_g = min(n_g, λ·p_g) with Σq = min(r, N), rounded systematically (Madow 1949), so that each gets its
q_g in expectation and never more than it holds. A multinomial over p would ask small strata for more than they have.

Letters: R exemplars, W ranks, S strata, G groups, C cells of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from drb.sampling.proportions import Proportions, StratumWeights
from drb.sampling.proportions.check import CheckedProportions
from drb.seeding import RoundGenerator
from drb.types import Float64Array, Int64Array


@dataclass(frozen=True)
class Draw:
    """The exemplars of one draw, ordered by owner.

    owner:    int64 [R], the rank that holds it
    position: int64 [R], its place in the owner's position table (grouped by stratum where strata are counted)
    weight:   float64 [R], inverse inclusion probability
    stratum:  int64 [R], the value of its stratum; None unless the strata's values were given
    importance: float64 [R], with which the mean over the draw is that over all samples offered so far, in expectation;
              None unless it is asked for
    """

    owner: Int64Array
    position: Int64Array
    weight: Float64Array
    stratum: Int64Array | None = None
    importance: Float64Array | None = None

    def __len__(self) -> int:
        return len(self.owner)

    @staticmethod
    def join(draws: Sequence[Draw]) -> Draw:
        """Return several draws one after the other, as one."""
        return Draw(*(np.concatenate([getattr(draw, name) for draw in draws]) for name in parts_of(draws[0])))


def parts_of(draw: Draw) -> list[str]:
    """Return the names of the arrays that this draw has."""
    return [each.name for each in fields(draw) if getattr(draw, each.name) is not None]


def importance_of(draw: Draw, stored_W: Int64Array, offered_W: Int64Array, draws: int = 1) -> Float64Array:
    """What makes means over a draw unbiased for all that was offered (Horvitz & Thompson 1952): float64 [R].

    An exemplar of rank k stands for its weight times offered_k / stored_k of the samples, as long as every sample that
    a rank was offered is stored with the same probability. stored_W, offered_W: int64 [W]. draws: that were joined.
    """
    offered = np.maximum(offered_W, stored_W)  # stored before offers were counted
    stands_for_W = offered / np.maximum(stored_W, 1)
    importance: Float64Array = draw.weight * stands_for_W[draw.owner] * (len(draw) / draws / max(1, int(offered.sum())))
    return importance


class Sampler:
    """Draws min(exemplars, N) distinct exemplars per round; none while the union holds fewer than min_fill.

    exemplars: may change between rounds, on all ranks alike. weighs_strata: draws need the strata's values.
    needs_strata: of its proportions.
    """

    def __init__(self, exemplars: int, proportions: Proportions, *, seed: int, rank: int, min_fill: int = 1) -> None:
        self.exemplars = exemplars
        is_own = type(proportions).__module__.startswith("drb.")
        checked = CheckedProportions(proportions)
        self._groups = (proportions if is_own else checked).groups
        self._weights = None
        if isinstance(proportions, StratumWeights):
            self._weights = proportions.weights if is_own else checked.weights
        self.weighs_strata, self.needs_strata = self._weights is not None, proportions.needs_strata
        self._min_fill = max(min_fill, 1)
        self._rng = RoundGenerator(seed, "draw", rank)
        self._union: _Union | None = None  # of the last draw: most of the time no count has changed since

    def draw(
        self,
        round_: int,
        counts_WS: Int64Array,
        offered_W: Int64Array,
        index: int = 0,
        strata_S: Int64Array | None = None,
    ) -> Draw:
        """This rank's draw in a round; counts_WS int64 [W, S] exemplars per rank and stratum, strata ascending.

        index: of the draw, where a round makes several, each independent of the others. strata_S: the strata's values,
        int64 [S], if exemplars are counted by them.
        """
        known_by = (counts_WS.tobytes(), counts_WS.shape, offered_W.tobytes())
        union = self._union
        if union is None or union.known_by != known_by:
            union = self._union = _Union.of(counts_WS, *self._groups(counts_WS, offered_W), known_by)
        count = min(self.exemplars, union.size) if union.size >= self._min_fill else 0
        if count == 0:
            nothing = np.empty(0, np.int64)
            return Draw(nothing, nothing, np.empty(0), None if strata_S is None else nothing)
        rng = self._rng.at(round_, index)
        if self._weights is not None:  # also of one stratum: they may refuse it
            assert strata_S is not None, "exemplars are counted by stratum"
            union.group_weights = self._weights(strata_S, union.group_sizes, round_)
        if len(union.cells) == 1:  # one rank, one group: nothing to look up
            position = _draw_from_one(union.size, count, rng)
            return Draw(np.zeros(count, np.int64), position, union.weight(count), _repeated(strata_S, count))
        if len(union.group_sizes) == 1:
            flat, weight = _draw_from_one(union.size, count, rng), union.weight(count)
        else:
            draw = draw_from_groups if self._weights is None else draw_by_weights
            flat, weight = draw(union.group_sizes, union.group_weights, count, rng)
        cell = union.ends.searchsorted(flat, side="right")
        position = flat - union.starts[cell]
        if union.owner is None:  # cells are ranks, already in order
            return Draw(cell, position, weight, _repeated(strata_S, count))
        owner = union.owner[cell]
        order = np.argsort(owner, kind="stable")
        stratum = None if strata_S is None else strata_S[cell[order] // len(counts_WS)]
        return Draw(owner[order], position[order], weight[order], stratum)


@dataclass
class _Union:
    """What a draw needs to know of the counts. cells int64 [G·C], group by group, and where they end.

    starts: what to take off a place in the concatenation of the cells to have a position in the owner's table.
    owner: of each cell; None: cells are ranks, in order. group_sizes int64 [G], group_weights float64 [G].
    """

    known_by: tuple[object, ...]
    size: int
    cells: Int64Array
    ends: Int64Array
    starts: Int64Array
    owner: Int64Array | None
    group_sizes: Int64Array
    group_weights: Float64Array
    _weight: Float64Array = field(default_factory=lambda: np.empty(0))

    def weight(self, count: int) -> Float64Array:
        """The weights of a draw from all exemplars alike, float64 [count], which nobody writes to."""
        if len(self._weight) != count:
            self._weight = np.full(count, self.size / count)
        return self._weight

    @classmethod
    def of(
        cls, counts_WS: Int64Array, cells_GC: Int64Array, weights_G: Float64Array, known_by: tuple[object, ...]
    ) -> _Union:
        """cells_GC: int64 [G, C], stratum by stratum or rank by rank."""
        world_size, cells = len(counts_WS), cells_GC.reshape(-1)
        ends = cells.cumsum()
        starts, owner = ends - cells, None
        if cells_GC.shape[1] == world_size and len(cells_GC) > 1:  # groups are strata
            stratum, owner = np.divmod(np.arange(len(cells)), world_size)
            starts -= (np.cumsum(counts_WS, axis=1) - counts_WS)[owner, stratum]
        sizes_G = cells_GC.sum(axis=1) if len(cells_GC) > 1 else ends[-1:]
        return cls(known_by, int(ends[-1]) if len(ends) else 0, cells, ends, starts, owner, sizes_G, weights_G)


def _repeated(strata_S: Int64Array | None, count: int) -> Int64Array | None:
    """The one stratum there is, int64 [count]; None where there are several that the draw does not tell apart."""
    return np.full(count, strata_S[0]) if strata_S is not None and len(strata_S) == 1 else None


def draw_from_groups(
    sizes_G: Int64Array, weights_G: Float64Array, count: int, rng: np.random.Generator
) -> tuple[Int64Array, Float64Array]:
    """Distinct positions in the concatenation of the groups: int64 [count] ascending; their weights, float64."""
    if len(sizes_G) == 1:
        size = int(sizes_G[0])
        return _draw_from_one(size, count, rng), np.full(count, size / count)
    q_G = expected_shares(sizes_G, weights_G, count)
    counts_G = systematic_counts(q_G, count, rng)
    starts_G = np.cumsum(sizes_G) - sizes_G
    group = np.repeat(np.arange(len(sizes_G)), counts_G)
    flat = starts_G[group] + rng.integers(0, sizes_G[group])
    for g in np.flatnonzero(counts_G > 1):  # single draws are done; groups with more must be distinct inside
        flat[group == g] = starts_G[g] + rng.choice(sizes_G[g], counts_G[g], replace=False, shuffle=False)
    flat.sort()
    return flat, (sizes_G[group] / q_G[group])


def draw_by_weights(
    sizes_G: Int64Array, weights_G: Float64Array, count: int, rng: np.random.Generator
) -> tuple[Int64Array, Float64Array]:
    """The same in less time, for weights that change from draw to draw: only the groups that are drawn are looked at.

    Other numbers of the generator are used, so a draw differs from that of `draw_from_groups`; its law is the same.
    """
    p_G = np.where(sizes_G > 0, weights_G, 0.0)
    ends_G = p_G.cumsum()
    total = ends_G[-1]
    if not total > 0 or (p_G * (count / total) > sizes_G - _MARGIN * (p_G > 0)).any():  # some group would be exhausted
        return draw_from_groups(sizes_G, weights_G, count, rng)
    group = ends_G.searchsorted((np.arange(count) + rng.random()) * (total / count), side="right")
    sizes = sizes_G[group]
    starts = (sizes_G.cumsum() - sizes_G)[group]
    flat = starts + rng.integers(0, sizes)
    weight = sizes * (total / count) / p_G[group]
    flat.sort()  # within its group, since groups ascend
    twice = flat[1:] == flat[:-1]
    for g in np.unique(group[1:][twice]) if twice.any() else ():  # in which an exemplar came twice: drawn from anew
        own = group == g
        flat[own] = starts[own] + np.sort(rng.choice(int(sizes_G[g]), int(own.sum()), replace=False, shuffle=False))
    return flat, weight


def _draw_from_one(size: int, count: int, rng: np.random.Generator) -> Int64Array:
    """Return `count` distinct positions among `size`, int64 [count] ascending, every set of them equally likely."""
    if count <= _FEW:
        return np.array(_few_of(size, count, rng.bit_generator), np.int64)
    flat: Int64Array = rng.choice(size, count, replace=False, shuffle=False)
    flat.sort()
    return flat


def _few_of(size: int, count: int, bits: np.random.BitGenerator) -> list[int]:
    """Return the same for a small count, in half the time of `Generator.choice`.

    Floyd's algorithm (Bentley & Floyd 1987): for each end from size - count + 1 on, take one of the positions before
    it or, if that is taken, the last of them. A word of 64 bits becomes one of them as in Lemire (2019), who redraws
    the few words that would make some positions likelier.
    """
    taken: set[int] = set()
    for end, word in enumerate(bits.random_raw(count).tolist(), size - count + 1):
        product = word * end
        while product & _LOW < end and product & _LOW < (_LOW + 1) % end:
            product = bits.random_raw() * end
        position = product >> 64
        taken.add(end - 1 if position in taken else position)
    return sorted(taken)


def expected_shares(sizes_G: Int64Array, weights_G: Float64Array, count: int) -> Float64Array:
    """q_g = min(n_g, λ·p_g) with Σq = count ≤ Σn; empty groups and groups of no weight get 0. float64 [G].

    If the groups with weight hold fewer than count, those without weight share the rest by size.
    """
    usable = (sizes_G > 0) & (weights_G > 0)
    p = np.where(usable, weights_G, 0.0)
    held = int(sizes_G[usable].sum())
    if held <= count:
        rest = sizes_G * ~usable
        scale = (count - held) / rest.sum() if held < count else 0.0
        q_G: Float64Array = np.where(usable, sizes_G, rest * scale).astype(np.float64)
        return q_G
    q: Float64Array = p * (count / p.sum())
    if (q <= sizes_G).all():
        return q
    # the groups that λ exceeds first are those with the smallest n/p: water-filling
    order = np.argsort(np.where(usable, sizes_G / np.where(usable, p, 1.0), np.inf))
    n, p_sorted = sizes_G[order].astype(np.float64), p[order]
    taken = np.concatenate(([0.0], np.cumsum(n)[:-1]))  # if the groups before this one are exhausted
    left = p_sorted[::-1].cumsum()[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        lam = (count - taken) / left
        first = int(np.argmax(lam * p_sorted <= n))
    q[order] = np.where(np.arange(len(n)) < first, n, lam[first] * p_sorted)
    return q


def systematic_counts(q_G: Float64Array, count: int, rng: np.random.Generator) -> Int64Array:
    """Integers with expectation q_g that sum to count: floor or ceiling of each q_g. int64 [G].

    In fixed point, so that a whole q_g is never rounded and the sum is exact.
    """
    shares = np.rint(q_G * _FIXED).astype(np.int64)
    fraction = shares % _FIXED
    shares[np.argmax(np.minimum(fraction, _FIXED - fraction))] += count * _FIXED - int(shares.sum())
    ends = np.cumsum(shares) + int(rng.integers(_FIXED))
    return np.diff(ends // _FIXED, prepend=0)


_FIXED = 1 << 32
_MARGIN = 1e-6  # of an exemplar, far above what rounding can do
_LOW = (1 << 64) - 1  # the lower 64 bits
_FEW = 16  # up to here Python takes less time than `Generator.choice`
