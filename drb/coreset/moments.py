"""Means and covariances over the rows of all ranks, principal axes, and how one set of rows differs from another.

None of these numbers predicts how well a network learns from a subset: they describe it. All are computed in float64.

Shapes: n rows, D numbers of each, d principal axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drb.distributed.reduction import sum_over_ranks
from drb.distributed.world import World
from drb.types import Float64Array


@dataclass(frozen=True)
class Moments:
    """count: of the rows. mean: float64 [D]. covariance: float64 [D, D], divided by the count."""

    count: int
    mean: Float64Array
    covariance: Float64Array


def moments_of(parts: Iterable[Tensor], numbers: int, world: World) -> Moments:
    """Return the moments of the rows of all ranks. Collective.

    Args:
        parts: this rank's rows, some at a time, [n, D] each. numbers: D.
    """
    count = torch.zeros(1, dtype=torch.float64)
    total, outer = torch.zeros(numbers, dtype=torch.float64), torch.zeros(numbers, numbers, dtype=torch.float64)
    for part in parts:
        rows = part.double().cpu()
        count, total, outer = count + len(rows), total + rows.sum(0), outer + rows.T @ rows
    count, total, outer = sum_over_ranks([count, total, outer], world)
    divisor = max(1.0, float(count))
    mean = (total / divisor).numpy()
    return Moments(int(count), mean, (outer / divisor).numpy() - np.outer(mean, mean))


def principal_axes(moments: Moments, dimensions: int) -> Float64Array:
    """Return the axes of the largest variances, the largest first: float64 [D, min(d, D)], signs fixed."""
    axes = np.linalg.eigh(moments.covariance)[1][:, ::-1][:, :dimensions]
    largest = np.abs(axes).argmax(axis=0)
    signed: Float64Array = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    return signed


def on_axes(moments: Moments, axes: Float64Array, centre: Float64Array) -> Moments:
    """Return the moments of the rows as coordinates on axes [D, d] around a centre [D]."""
    return Moments(moments.count, (moments.mean - centre) @ axes, axes.T @ moments.covariance @ axes)


def frechet_distance(one: Moments, other: Moments) -> float:
    """‖μ₁ − μ₂‖² + tr(S₁ + S₂ − 2 (S₁ S₂)^½), the squared Fréchet distance of two normal distributions.

    It is too large for small sets, by about 1/n: compare only sets of the same size.
    """
    root = _root(one.covariance)
    middle = np.linalg.eigvalsh(root @ other.covariance @ root)
    cross = np.sqrt(middle.clip(0)).sum()
    apart = ((one.mean - other.mean) ** 2).sum()
    return float(max(0.0, apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * cross))


def gaussian_kl(subset: Moments, whole: Moments, shrinkage: float = 0.01) -> float:
    """The Kullback-Leibler divergence KL(subset ‖ whole) of two normal distributions with their moments.

    shrinkage: how much of the whole's mean variance is added to both diagonals, so that both can be inverted.
    """
    numbers = len(whole.mean)
    added = shrinkage * np.trace(whole.covariance) / numbers * np.eye(numbers)
    s, w = subset.covariance + added, whole.covariance + added
    apart = whole.mean - subset.mean
    logs = np.linalg.slogdet(w)[1] - np.linalg.slogdet(s)[1]
    return float(0.5 * (np.trace(np.linalg.solve(w, s)) + apart @ np.linalg.solve(w, apart) - numbers + logs))


def label_kl(subset: Float64Array, whole: Float64Array) -> float:
    """Σ p log(p / q) over the classes, p of the subset and q of the whole, from counts, each plus one (Laplace)."""
    p, q = ((counts + 1) / (counts + 1).sum() for counts in (np.asarray(subset, float), np.asarray(whole, float)))
    return float((p * np.log(p / q)).sum())


def _root(symmetric: Float64Array) -> Float64Array:
    """The square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(symmetric)
    root: Float64Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
