"""k-means over the rows of all ranks: the clusters are those that one process would find with all the rows.

Every step gives each row to its nearest centroid, and adds up counts and sums over the ranks. Rows are rounded to
multiples of a power of two before, so that float64 sums are exact and do not depend on which rank has which rows.
Starts are chosen by k-means++ (Arthur & Vassilvitskii 2007) among the rows with the smallest keys of their ids. A
cluster that lost all its rows begins anew at the row that is farthest from its centroid.

With `parts` > 1 a step takes one part of the rows, divided by their keys, and a centroid is the mean of all rows that
it ever got: mini-batch k-means (Sculley 2010).

Shapes: n rows of this rank, N of all ranks, D numbers of a row, k clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drb.distributed.reduction import gather_rows, sum_over_ranks, values_of_first_rank
from drb.distributed.world import World
from drb.seeding import derive_seed, sample_keys

_ROWS = 4096  # that are compared with the centroids at once
_BITS = 52  # that a sum of all rows may take
_STARTS_AMONG = 16  # times as many rows as there are clusters
_LEAST_STARTS = 1024


@dataclass(frozen=True)
class Clusters:
    """centroids: float64 [k, D]. masses: float64 [k], the weights of the rows of all ranks that are nearest to each."""

    centroids: Tensor
    masses: Tensor

    def __len__(self) -> int:
        return len(self.centroids)


class Rows:
    """This rank's rows, with what decides on them alike on any number of ranks."""

    def __init__(self, points: Tensor, ids: Tensor, world: World, *, seed: int, weights: Tensor | None = None) -> None:
        """
        Args:
            points: [n, D] of any dtype. ids: int64 [n], unique over the ranks. weights: above 0 [n]; None: 1 each.
        """
        self.points, self.ids, self.world = points, ids, world
        self.weights = torch.ones(len(points), dtype=torch.float64) if weights is None else weights.double().cpu()
        self.weights = self.weights.to(points.device)
        keys = sample_keys(ids.cpu().numpy(), seed) >> np.uint64(1)
        self.keys = torch.from_numpy(keys.view(np.int64))
        heaviest = max((float((p.abs().amax(1) * w).max()) for p, w, _ in self.chunks() if p.numel()), default=0.0)
        bounds = gather_rows(torch.tensor([[heaviest, float(len(points))]], dtype=torch.float64), world)
        self.total = int(bounds[:, 1].sum())
        size = float(bounds[:, 0].max()) * max(1, self.total)
        self._scale = 2.0 ** (_BITS - max(0, math.ceil(math.log2(size)))) if size > 0 else 1.0

    def chunks(self, chosen: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """A few rows at a time: float64 [c, D], their weights [c] and their places [c]. chosen: places; None: all."""
        places = torch.arange(len(self.points)) if chosen is None else chosen
        for some in torch.split(places, _ROWS):
            where = some.to(self.points.device)
            yield self.points[where].double(), self.weights[where], where

    def sums(self, centroids: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The sum [k, D] and the mass [k] of the rows of all ranks that are nearest to each centroid. Collective."""
        totals = torch.zeros(len(centroids), centroids.shape[1] + 1, dtype=torch.float64, device=centroids.device)
        for points, weights, _ in self.chunks(chosen):
            weighted = torch.cat([points * weights[:, None], weights[:, None]], dim=1)
            totals.index_add_(0, nearest(points, centroids), (weighted * self._scale).round_())
        (totals,) = sum_over_ranks([totals], self.world)
        totals /= self._scale
        return totals[:, :-1], totals[:, -1]

    def of_smallest_keys(self, count: int) -> tuple[Tensor, Tensor]:
        """The rows of all ranks with the smallest keys: float64 [≤ count, D], by key, and their weights. Collective."""
        everyone = gather_rows(self.keys.sort().values[:count], self.world).sort().values[:count]
        last = int(everyone[-1]) if len(everyone) else -1
        own = (self.keys <= last).nonzero()[:, 0].to(self.points.device)
        points, weights = (gather_rows(each[own].double(), self.world) for each in (self.points, self.weights))
        order = gather_rows(self.keys[own.cpu()], self.world).argsort().to(points.device)
        return points[order], weights[order]


def kmeans(
    points: Tensor,
    ids: Tensor,
    num_clusters: int,
    world: World,
    *,
    seed: int = 0,
    weights: Tensor | None = None,
    steps: int = 50,
    parts: int = 1,
) -> Clusters:
    """Return clusters of the rows of all ranks, alike on all of them. Collective.

    Args:
        points: this rank's rows [n, D], of any dtype, on any device; n may be 0.
        ids: of the rows, int64 [n], unique over the ranks.
        weights: of the rows, above 0; None: each counts 1.
        steps: at most; fewer once no row changes its cluster.
        parts: into how many the rows are divided, of which a step takes one.
    Raises:
        ValueError: no rank has rows.
    """
    rows = Rows(points, ids, world, seed=seed, weights=weights)
    if not rows.total:
        raise ValueError("k-means needs at least one row, and no rank has any")
    centroids = _starts(rows, num_clusters, seed)
    sums, masses = torch.zeros_like(centroids), centroids.new_zeros(num_clusters)
    for step in range(steps):
        chosen = None if parts == 1 else (rows.keys % parts == step % parts).nonzero()[:, 0]
        more, mass = rows.sums(centroids, chosen)
        sums, masses = (more, mass) if parts == 1 else (sums + more, masses + mass)
        moved = torch.where(masses[:, None] > 0, sums / masses[:, None].clamp_min(1e-300), centroids)
        if parts == 1 and not bool((masses > 0).all()):
            moved = _refilled(rows, centroids, moved, masses)
        if parts == 1 and torch.equal(moved, centroids):
            break
        centroids = moved
    return Clusters(centroids, rows.sums(centroids)[1])


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of each row: int64 [n]. points: [n, D], any dtype; centroids: float64 [k, D]."""
    found = [
        (centroids.square().sum(1) - 2 * (some.double() @ centroids.T)).argmin(1) for some in torch.split(points, _ROWS)
    ]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=points.device)


def medoids(points: Tensor, ids: Tensor, clusters: Clusters, world: World) -> Tensor:
    """Return the id of each cluster's row that is nearest to its centroid: int64 [k], -1 for a cluster without rows.

    Among the rows of all ranks; of rows equally near that with the smallest id. Collective.
    """
    owner = nearest(points, clusters.centroids)
    distances = _distances(points, clusters.centroids, owner)
    order = np.lexsort((ids.cpu().numpy(), distances.cpu().numpy(), owner.cpu().numpy()))
    first = np.unique(owner.cpu().numpy()[order], return_index=True)[1]
    best = torch.from_numpy(order[first])
    mine = [each.cpu()[best] for each in (owner, distances, ids)]
    owners, far, of_whom = (gather_rows(each, world).numpy() for each in mine)
    order = np.lexsort((of_whom, far, owners))
    which, first = np.unique(owners[order], return_index=True)
    found = torch.full((len(clusters),), -1, dtype=torch.int64)
    found[torch.from_numpy(which)] = torch.from_numpy(of_whom[order[first]])
    return found


def _starts(rows: Rows, num_clusters: int, seed: int) -> Tensor:
    """k-means++ among some rows: float64 [k, D], rank 0's. With fewer rows than clusters some are the same."""
    pool, weights = rows.of_smallest_keys(max(_LEAST_STARTS, _STARTS_AMONG * num_clusters))
    rng = np.random.Generator(np.random.Philox(key=derive_seed(seed, "kmeans")))
    chances, chosen = weights.clone(), []
    squares = torch.full_like(weights, torch.inf)
    for _ in range(num_clusters):
        total = chances.cumsum(0)
        if total[-1] > 0:  # else every row is a centroid already
            place = int(torch.searchsorted(total, total[-1] * rng.random(), right=True))
            chosen.append(min(place, len(pool) - 1))
        squares = torch.minimum(squares, (pool - pool[chosen[-1]]).square().sum(1))
        chances = weights * squares
    chosen += chosen[-1:] * (num_clusters - len(chosen))
    return values_of_first_rank(pool[chosen], rows.world)


def _refilled(rows: Rows, before: Tensor, moved: Tensor, masses: Tensor) -> Tensor:
    """The centroids, where those without rows are the rows farthest from their own centroid. Collective."""
    empty = (masses == 0).nonzero()[:, 0]
    distances = _distances(rows.points, moved, nearest(rows.points, before))
    own = torch.from_numpy(np.lexsort((rows.ids.cpu().numpy(), -distances.cpu().numpy()))[: len(empty)])
    far, ids = gather_rows(distances.cpu()[own], rows.world), gather_rows(rows.ids.cpu()[own], rows.world)
    points = gather_rows(rows.points[own.to(rows.points.device)].double(), rows.world)
    order = torch.from_numpy(np.lexsort((ids.numpy(), -far.numpy())))[: len(empty)]
    order = order[far[order] > 0]
    moved = moved.clone()
    moved[empty[: len(order)]] = points[order.to(points.device)]
    return moved


def _distances(points: Tensor, centroids: Tensor, owner: Tensor) -> Tensor:
    """The squared distance of each row to the centroid that it belongs to: float64 [n], 0 exactly for the same."""
    parts = zip(torch.split(points, _ROWS), torch.split(owner, _ROWS), strict=True)
    found = [(some.double() - centroids[which]).square().sum(1) for some, which in parts]
    return torch.cat(found) if found else centroids.new_zeros(0)
