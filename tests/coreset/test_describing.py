"""What a subset is like: privacy that is spent, densities, and distances between sets, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ranks import run_ranks
from scipy import integrate, linalg, stats

from drb.coreset.density import radii, thinned
from drb.coreset.moments import frechet_distance, gaussian_kl, label_kl, moments_of, on_axes, principal_axes
from drb.coreset.privacy import delta_of, epsilon_of, gaussian_dp, private_kmeans
from drb.distributed.world import World
from drb.seeding import sample_keys

ALONE = World()


def test_delta_is_the_integral_of_how_far_the_likelihoods_differ():
    """δ(ε) = ∫ max(0, p − e^ε q) of two normal densities that lie μ apart: the worst case of Gaussian DP."""
    for mu, epsilon in ((0.5, 0.3), (1.0, 1.0), (2.5, 4.0)):
        found, _ = integrate.quad(
            lambda x, mu=mu, epsilon=epsilon: max(0.0, stats.norm.pdf(x, mu) - math.exp(epsilon) * stats.norm.pdf(x)),
            -12,
            15,
            points=[epsilon / mu + mu / 2],
        )
        assert delta_of(mu, epsilon) == pytest.approx(found, rel=1e-5)
        assert epsilon_of(mu, delta_of(mu, epsilon)) == pytest.approx(epsilon, rel=1e-5)
    assert epsilon_of(gaussian_dp(10.0, 4), 1e-5) == epsilon_of(0.2, 1e-5)
    assert epsilon_of(0.01, 0.5) == 0.0
    assert epsilon_of(1000.0, 1e-5) == math.inf


def noisy(rank: int, world_size: int) -> list[np.ndarray]:
    world, rng = World(rank, world_size), torch.Generator().manual_seed(100 * rank)
    points = torch.zeros(400, 3000)[rank::world_size]
    points = torch.cat([points, points[:1] + 1e6]) if rank == 0 else points  # shortened to 1, so it moves little
    options = {"noise": 5.0, "clip": 1.0, "steps": 1}
    return [
        np.column_stack([c.centroids, c.masses])
        for c in (private_kmeans(points, 1, world, rng=rng, **options) for _ in range(40))
    ]


def test_the_noise_has_the_stated_size_and_is_the_same_on_all_ranks():
    left, right = run_ranks(noisy, 2)
    np.testing.assert_array_equal(left, right)
    masses = np.array(left)[:, 0, -1]
    assert masses.mean() == pytest.approx(401, abs=4 * 5 * math.sqrt(2 / 40))
    assert masses.std() == pytest.approx(5 * math.sqrt(2), rel=0.5)
    sums = np.array(left)[:, 0, :-1] * masses[:, None]
    assert sums.std() == pytest.approx(5 * math.sqrt(2), rel=0.02)
    assert sums.mean() == pytest.approx(1 / math.sqrt(3000), abs=4 * 5 * math.sqrt(2 / 120_000))


def test_radii_and_outliers_and_an_even_cover():
    rng = np.random.default_rng(0)
    dense, sparse = rng.uniform(0, 1, (400, 2)), rng.uniform([5, 0], [6, 1], (100, 2))
    places = torch.from_numpy(np.concatenate([dense, sparse, [[50.0, 50.0]]]))
    distances = np.sort(linalg.norm(places[:, None].numpy() - places[None].numpy(), axis=2), axis=1)
    np.testing.assert_allclose(radii(places, 5), distances[:, 5], rtol=1e-12)
    listed = thinned(places, sample_keys(np.arange(501), 3), 100, outliers=0.01, neighbours=5)
    assert len(set(listed.tolist())) == 100
    assert 500 not in listed
    share = float((listed >= 400).double().mean())  # by area half, by number a fifth
    assert 0.35 < share < 0.6
    shorter = thinned(places, sample_keys(np.arange(501), 3), 10, outliers=0.01, neighbours=5)
    assert shorter.tolist() == listed[:10].tolist()
    assert radii(places[:1], 5).tolist() == [0]
    assert thinned(places[:3] * 0, sample_keys(np.arange(3), 3), 2, outliers=0.0, neighbours=1).shape == (2,)


def of_ranks(rank: int, world_size: int) -> list[float]:
    rows = torch.from_numpy(np.random.default_rng(5).normal(size=(300, 4)) @ np.diag([3, 2, 1, 0.1]))
    whole = moments_of(rows[rank::world_size].split(50), 4, World(rank, world_size))
    part = moments_of([rows[:40][rank::world_size]], 4, World(rank, world_size))
    return [frechet_distance(part, whole), gaussian_kl(part, whole), float(whole.count)]


def test_distances_are_those_of_their_definitions_on_any_number_of_ranks():
    rows = np.random.default_rng(5).normal(size=(300, 4)) @ np.diag([3, 2, 1, 0.1])
    mean, covariance = [r.mean(0) for r in (rows[:40], rows)], [np.cov(r.T, ddof=0) for r in (rows[:40], rows)]
    apart, numbers = mean[0] - mean[1], 4
    frechet = apart @ apart + np.trace(covariance[0] + covariance[1] - 2 * linalg.sqrtm(covariance[0] @ covariance[1]))
    s, w = [c + 0.01 * np.trace(covariance[1]) / numbers * np.eye(numbers) for c in covariance]
    kl = np.trace(linalg.inv(w) @ s) + apart @ linalg.inv(w) @ apart - numbers
    kl = 0.5 * (kl + math.log(linalg.det(w) / linalg.det(s)))
    for world_size in (1, 2):
        for found in run_ranks(of_ranks, world_size):
            assert found == pytest.approx([frechet.real, kl, 300], rel=1e-9)
    assert label_kl(np.array([3, 0]), np.array([10, 10])) == pytest.approx(
        0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    )


def test_axes_are_those_of_the_largest_variances():
    rows = torch.from_numpy(np.random.default_rng(5).normal(size=(300, 4)) @ np.diag([3, 2, 1, 0.1]) + 7)
    moments = moments_of([rows], 4, ALONE)
    axes = principal_axes(moments, 2)
    assert np.abs(axes).argmax(0).tolist() == [0, 1]
    placed = on_axes(moments, axes, moments.mean)
    found = (rows.numpy() - rows.numpy().mean(0)) @ axes
    np.testing.assert_allclose(placed.covariance, np.cov(found.T, ddof=0), atol=1e-10)
    np.testing.assert_allclose(placed.mean, 0, atol=1e-12)
