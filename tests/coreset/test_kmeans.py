"""k-means and kernel inducing points against plain loops in float64, and the same clusters on any number of ranks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks

from drb.coreset.inducing_points import adapted, error, tangent_kernel
from drb.coreset.kmeans import Clusters, kmeans, medoids, nearest
from drb.distributed.world import World

ALONE = World()


def blobs(rows: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(5, 6)) * 40
    points = 128 + centres[rng.integers(0, 5, rows)] + rng.normal(size=(rows, 6)) * 6
    return torch.from_numpy(points.clip(0, 255)).to(dtype)


def loop_means(points: list[list[float]], weights: list[float], centroids: list[list[float]]) -> list[list[float]]:
    """One step of Lloyd's algorithm."""
    totals, masses = [[0.0] * len(c) for c in centroids], [0.0] * len(centroids)
    for point, weight in zip(points, weights, strict=True):
        squares = [sum((a - b) ** 2 for a, b in zip(point, c, strict=True)) for c in centroids]
        best = squares.index(min(squares))
        masses[best] += weight
        totals[best] = [t + weight * value for t, value in zip(totals[best], point, strict=True)]
    return [
        [t / mass for t in total] if mass else before
        for total, mass, before in zip(totals, masses, centroids, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_step_is_that_of_a_loop_in_float64(dtype):
    points, ids = blobs(200, dtype), torch.arange(200)
    weights = torch.from_numpy(np.random.default_rng(1).uniform(0.2, 3, 200))
    by_steps = [kmeans(points, ids, 5, ALONE, seed=2, weights=weights, steps=steps).centroids for steps in range(4)]
    for before, after in pairwise(by_steps):
        expected = loop_means(points.double().tolist(), weights.tolist(), before.tolist())
        np.testing.assert_allclose(after.numpy(), expected, rtol=1e-11)
    clusters = kmeans(points, ids, 5, ALONE, seed=2, weights=weights)
    again = loop_means(points.double().tolist(), weights.tolist(), clusters.centroids.tolist())
    np.testing.assert_allclose(clusters.centroids.numpy(), again, rtol=1e-11)  # nothing moves any more
    owner = nearest(points, clusters.centroids)
    np.testing.assert_allclose(clusters.masses, [weights[owner == c].sum() for c in range(5)], rtol=1e-11)


def test_medoids_are_the_rows_nearest_to_their_centroids():
    points, ids = blobs(150), torch.arange(150) * 7 + 3
    points[10] = points[20] = points[30]  # equally near: that with the smallest id
    clusters = kmeans(points, ids, 4, ALONE)
    clusters = Clusters(torch.cat([points[10:11].double(), clusters.centroids[1:], clusters.centroids[:1] + 1e6]), None)
    distances = (points.double()[:, None] - clusters.centroids[None]).square().sum(2)
    owner = distances.argmin(1)
    expected = [
        int(ids[min((i for i in range(150) if owner[i] == c), key=lambda i: (distances[i, c], i))]) for c in range(4)
    ]
    assert medoids(points, ids, clusters, ALONE).tolist() == [*expected, -1]
    assert expected[0] == 73


def test_a_cluster_without_rows_begins_anew_and_too_few_distinct_rows_leave_some_empty():
    twice = torch.tensor([[0.0], [0.0], [0.0], [9.0]])
    clusters = kmeans(twice, torch.arange(4), 3, ALONE)
    assert sorted(clusters.masses.tolist()) == [0, 1, 3]
    # a start that wins nothing: all rows but one are nearer to another
    far = torch.tensor([[0.0], [1.0], [2.0], [100.0], [101.0], [202.0]])
    for seed in range(20):
        masses = kmeans(far, torch.arange(6), 3, ALONE, seed=seed).masses
        assert bool((masses > 0).all()), seed
    with pytest.raises(ValueError, match="at least one row"):
        kmeans(torch.zeros(0, 3), torch.arange(0), 2, ALONE)


def on_ranks(rank: int, world_size: int) -> list[Any]:
    world = World(rank, world_size)
    points = blobs(301)
    own = torch.arange(rank, 301, world_size)[: 3 if rank == world_size - 1 and world_size > 1 else None]
    own = torch.cat([own, torch.arange(world_size - 1, 301, world_size)[3:]]) if rank == 0 and world_size > 1 else own
    weights = 1.0 + (own % 4)
    results = []
    for parts in (1, 4):
        clusters = kmeans(points[own], own * 11, 7, world, seed=5, weights=weights, steps=12, parts=parts)
        chosen = medoids(points[own], own * 11, clusters, world)
        results.append([clusters.centroids.numpy(), clusters.masses.numpy(), chosen.numpy()])
    return results


def test_clusters_are_bit_for_bit_the_same_on_any_number_of_ranks():
    """The last rank has three rows, so that no rank's share looks like the whole."""
    (alone,) = run_ranks(on_ranks, 1)
    for world_size in (2, 3):
        for of_rank in run_ranks(on_ranks, world_size):
            for here, there in zip(of_rank, alone, strict=True):
                for left, right in zip(here, there, strict=True):
                    np.testing.assert_array_equal(left, right)


def test_parts_find_about_the_same_clusters_as_the_whole():
    points, ids = blobs(2000), torch.arange(2000)

    def scatter(**options: Any) -> float:
        clusters = kmeans(points, ids, 5, ALONE, seed=1, **options)
        return float((points.double() - clusters.centroids[nearest(points, clusters.centroids)]).square().sum())

    assert scatter(parts=10, steps=40) < 1.1 * scatter()


# -- kernel inducing points


def loop_kernel(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True)) + 1
    lengths = math.sqrt((sum(x * x for x in a) + 1) * (sum(x * x for x in b) + 1))
    cosine = max(-1 + 1e-7, min(1 - 1e-7, dot / lengths))
    angle = math.acos(cosine)
    return lengths * (math.sin(angle) + cosine * (math.pi - angle)) / math.pi + dot * (math.pi - angle) / math.pi


def loop_error(points: np.ndarray, targets: np.ndarray, data: np.ndarray, labels: np.ndarray, weights: Any) -> float:
    inner = np.array([[loop_kernel(a, b) for b in points] for a in points])
    mean = sum(inner[i, i] for i in range(len(points))) / len(points)
    coefficients = np.linalg.inv(inner + 1e-3 * mean * np.eye(len(points))) @ targets
    total = 0.0
    for row, label, weight in zip(data, labels, weights, strict=True):
        predicted = sum(loop_kernel(row, p) * c for p, c in zip(points, coefficients, strict=True))
        total += weight * float(((label - predicted) ** 2).sum())
    return 0.5 * total / float(sum(weights))


def test_the_error_and_its_gradient_are_those_of_loops_in_float64():
    rng = np.random.default_rng(0)
    points, data = rng.uniform(size=(4, 3)), rng.uniform(size=(9, 3))
    targets, labels = np.eye(2)[[0, 1, 0, 1]] - 0.5, np.eye(2)[rng.integers(0, 2, 9)] - 0.5
    weights = rng.uniform(0.5, 2, 9)
    given = [torch.from_numpy(each) for each in (points, targets, data, labels)]
    given[0].requires_grad_()
    value = error(*given, 1e-3, torch.from_numpy(weights))
    assert value.item() == pytest.approx(loop_error(points, targets, data, labels, weights), rel=1e-9)
    value.backward()
    for i, j in np.ndindex(points.shape):
        step = np.zeros_like(points)
        step[i, j] = 1e-5
        ends = [loop_error(points + sign * step, targets, data, labels, weights) for sign in (1, -1)]
        assert given[0].grad[i, j].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-8)
    assert torch.equal(tangent_kernel(given[2], given[2]), tangent_kernel(given[2], given[2]).T)


def test_moved_points_predict_better_and_held_ones_stay():
    rng = np.random.default_rng(1)
    data = torch.from_numpy(rng.uniform(size=(60, 4)))
    labels = (data[:, 0] > data[:, 1]).long()
    start, of = data[:6], labels[:6]
    moved = torch.tensor([True, True, True, True, False, False])

    def loss(points: torch.Tensor) -> float:
        return error(points, torch.eye(2)[of].double() - 0.5, data, torch.eye(2)[labels].double() - 0.5, 1e-3).item()

    points = adapted(start, of, data, labels, 2, moved=moved, steps=100)
    assert loss(points) < 0.7 * loss(start)
    assert torch.equal(points[4:], start[4:])
    assert not torch.isclose(points[:4], start[:4]).any()
