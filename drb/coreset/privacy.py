"""k-means with Gaussian noise on sums and counts, and the privacy that it spends.

Every release adds noise to the pair (sum of the rows / clip, number of rows) of each cluster. A row counts in one
cluster of a release, with a length of at most `clip`, so leaving one sample out changes the pairs by at most √2. With
noise of standard deviation noise · √2 a release is 1/noise-Gaussian-DP, and R releases together are √R/noise-GDP (Dong,
Roth & Su 2019, arXiv 1905.02383), for which the paper gives δ as a function of ε.

It covers what is released, the centroids and masses; it covers neither the network that was trained on the samples, nor
attacks on the floating-point arithmetic of the noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drb.coreset.kmeans import Clusters, nearest
from drb.distributed.reduction import sum_over_ranks, values_of_first_rank
from drb.distributed.world import World


def private_kmeans(
    points: Tensor, num_clusters: int, world: World, *, noise: float, clip: float, steps: int, rng: torch.Generator
) -> Clusters:
    """Return clusters of the rows of all ranks after `steps` noisy steps, alike on all ranks. Collective.

    It makes steps + 1 releases: the first is the mean of all rows, around which the starts are drawn.

    Args:
        points: this rank's rows [n, D], of any dtype. A row longer than `clip` is shortened to it.
        noise: the standard deviation of the noise, relative to what one sample can change.
        rng: of the noise, rank 0's; for privacy its seed must be a secret.
    Returns:
        Masses are noisy numbers of rows, at least 0.
    """
    rows = points.double()
    rows *= (clip / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)).clamp_max(1.0)
    mean = _release(rows, rows.new_zeros(1, rows.shape[1]), world, noise, clip, rng)
    spread = mean.centroids.std() if rows.shape[1] > 1 else mean.centroids.abs().max()
    offsets = torch.randn(num_clusters, rows.shape[1], dtype=torch.float64, generator=rng).to(rows.device)
    clusters = Clusters(
        values_of_first_rank(mean.centroids + spread * offsets, world), mean.masses.expand(num_clusters)
    )
    for _ in range(steps):
        clusters = _release(rows, clusters.centroids, world, noise, clip, rng)
    return clusters


def _release(
    rows: Tensor, centroids: Tensor, world: World, noise: float, clip: float, rng: torch.Generator
) -> Clusters:
    """The noisy means and masses of the rows nearest to each centroid; a mean of less than one row stays as it was."""
    totals = centroids.new_zeros(len(centroids), centroids.shape[1] + 1)
    totals.index_add_(0, nearest(rows, centroids), torch.cat([rows / clip, rows.new_ones(len(rows), 1)], dim=1))
    (totals,) = sum_over_ranks([totals], world)
    added = torch.randn(totals.shape, dtype=torch.float64, generator=rng).to(totals.device)
    totals = values_of_first_rank(totals + noise * math.sqrt(2) * added, world)
    masses = totals[:, -1].clamp_min(0)
    means = clip * totals[:, :-1] / masses[:, None].clamp_min(1)
    return Clusters(torch.where(masses[:, None] >= 1, means, centroids), masses)


def gaussian_dp(noise: float, releases: int) -> float:
    """μ of so many releases together."""
    return math.sqrt(releases) / noise


def delta_of(mu: float, epsilon: float) -> float:
    """The δ for which μ-Gaussian-DP is (ε, δ)-differentially private."""
    return _normal(-epsilon / mu + mu / 2) - math.exp(epsilon) * _normal(-epsilon / mu - mu / 2)


def epsilon_of(mu: float, delta: float) -> float:
    """The smallest ε for which μ-Gaussian-DP is (ε, δ)-differentially private, rounded up by less than 1e-6 of it."""
    if delta_of(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while high < 700 and delta_of(mu, high) > delta:
        high *= 2
    if high >= 700:
        return math.inf  # e^ε is no number any more: no privacy that is worth the name
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(mu, middle) > delta else (low, middle)
    return high


def _normal(value: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-value / math.sqrt(2))
