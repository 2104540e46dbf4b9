"""Kernel inducing points (KIP, Nguyen et al. 2021, arXiv 2011.00050): points that a kernel method learns most from.

A kernel ridge regression that is fitted to m points with their labels predicts the labels of the data; the points are
moved by gradient descent so that half the sum of its squared errors becomes small:

    ½ Σ_i w_i ‖ y_i − K_is (K_ss + λ m̄ I)⁻¹ y_s ‖² / Σ_i w_i,   m̄ the mean of the diagonal of K_ss

The kernel is the neural tangent kernel of an endlessly wide network with one hidden layer of ReLUs and biases. Labels
are one-hot less 1/C, and are not moved: a record has a class.

Shapes: n rows of the data, m points, D numbers of each, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_INSIDE = 1 - 1e-7  # beyond, the derivative of arccos has no end


def adapted(
    start: Tensor,
    start_labels: Tensor,
    data: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    weights: Tensor | None = None,
    moved: Tensor | None = None,
    steps: int = 250,
    rate: float = 0.02,
    ridge: float = 1e-3,
    rows: int | None = None,
) -> Tensor:
    """Return the points after so many steps of Adam on `error`: float64 [m, D].

    Args:
        start: where the points begin, [m, D]; start_labels: their classes, int64 [m].
        data: the rows to be predicted, [n, D], in the same units, about 1; labels: their classes, int64 [n].
        weights: of the rows [n]; None: alike.
        moved: bool [m], the points that may move; None: all.
        rows: of the data that a step looks at, one stretch after the other; None: all.
    """
    points = start.double().clone().requires_grad_()
    rows = len(data) if rows is None else min(rows, len(data))
    answers = F.one_hot(labels, num_classes).double() - 1 / num_classes
    targets = F.one_hot(start_labels, num_classes).double() - 1 / num_classes
    held = None if moved is None else ~moved
    optimizer = torch.optim.Adam([points], lr=rate)
    with torch.enable_grad():
        for step in range(steps):
            some = (torch.arange(rows, device=data.device) + step * rows) % len(data)
            of_some = None if weights is None else weights[some]
            optimizer.zero_grad()
            loss = error(points, targets, data[some].double(), answers[some], ridge, of_some)
            loss.backward()  # type: ignore[no-untyped-call]
            if held is not None and points.grad is not None:
                points.grad[held] = 0
            optimizer.step()
    return points.detach()


def error(
    points: Tensor, targets: Tensor, data: Tensor, labels: Tensor, ridge: float, weights: Tensor | None = None
) -> Tensor:
    """Half the mean squared error of the regression that is fitted to the points: a scalar.

    Args:
        points: [m, D]; targets: theirs, [m, C]. data: [n, D]; labels: their targets, [n, C].
    """
    inner = tangent_kernel(points, points)
    ridged = inner + ridge * inner.diagonal().mean() * torch.eye(len(points), dtype=inner.dtype, device=inner.device)
    predicted = tangent_kernel(data, points) @ torch.linalg.solve(ridged, targets)
    squares = (labels - predicted).square().sum(1)
    mean: Tensor = squares.mean() if weights is None else (squares * weights).sum() / weights.sum()
    return 0.5 * mean


def tangent_kernel(left: Tensor, right: Tensor) -> Tensor:
    """The neural tangent kernel of one hidden layer of ReLUs, with biases, for rows [n, D] and [m, D]: [n, m].

    With Σ = (x·x' + 1), ρ its cosine: Σ-weighted arc-cosine kernels of degree 0 and 1 (Cho & Saul 2009).
    """
    norms = [(each.square().sum(1) + 1).sqrt() for each in (left, right)]
    lengths = norms[0][:, None] * norms[1][None, :]
    products = left @ right.T + 1
    cosine = (products / lengths).clamp(-_INSIDE, _INSIDE)
    angle = torch.arccos(cosine)
    second = (math.pi - angle) / math.pi
    first = ((1 - cosine.square()).sqrt() + cosine * (math.pi - angle)) / math.pi
    return lengths * first + products * second
