"""GEM (Lopez-Paz & Ranzato 2017, arXiv 1706.08840): steps do not climb the loss of any earlier task.

What is trained on is the minibatch alone. Each earlier task k has a reference g_k, the gradient of the mean loss on its
drawn exemplars, of all ranks. If the gradient g points against any of them, the step is made along G'v + g, where the
rows of G are the references and v solves

    minimise 1/2 v'(GG' + damping I)v + (Gg)'v   subject to v >= margin

in float64. The paper computes g_k on all of task k's memory; here it is computed on what was drawn for the step, so a
large `rehearsal.exemplars` comes nearer to it. A task without drawn exemplars sets no limit. Gradients and references
are reduced over the ranks before, and v is rank 0's.

Letters: T references, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.options import setting
from drb.training.method.needs import Needs
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient
from drb.training.strategies.strategy import Strategy

Array = npt.NDArray[np.float64]


class GradientEpisodicMemory(Strategy):
    """The minibatch's gradient, projected so that no earlier task's loss rises.

    margin: how far the step leans towards the earlier tasks, gamma of the paper
    damping: what is added to the diagonal of GG'
    """

    name = "gem"
    margin: float = setting(0.5, at_least=0)
    damping: float = setting(1e-3, above=0)

    def needs(self) -> Needs:
        return Needs(exemplars="apart", references="per_task")

    def project(self, step: Step, gradient: Gradient) -> None:
        if not step.references:  # in the first task
            return
        products = inner_products([gradient, *step.references])
        weights = weights_of_references(products[1:, 1:], products[1:, 0], self.margin, self.damping)
        agreed = step.of_first_rank(torch.from_numpy(weights))
        for reference, weight in zip(step.references, agreed.tolist(), strict=True):
            gradient.add_(reference * weight)


def inner_products(vectors: Sequence[Gradient]) -> Array:
    """The products of each with each: float64 [len(vectors), len(vectors)] in host memory."""
    total: Tensor | None = None
    for name in vectors[0].tensors:
        rows = torch.stack([vector.tensors[name].flatten() for vector in vectors])
        part = (rows @ rows.T).double()
        total = part if total is None else total + part
    assert total is not None
    return total.cpu().numpy()


def weights_of_references(gram: Array, products: Array, margin: float, damping: float) -> Array:
    """How much of each reference is added to the gradient: float64 [T], zeros if it points against none.

    Args:
        gram: GG', float64 [T, T]. products: Gg, float64 [T].
    """
    if (products >= 0).all():
        return np.zeros(len(products))
    matrix = (gram + gram.T) / 2 + damping * np.eye(len(products))
    return margin + nonnegative_minimum(matrix, products + matrix @ np.full(len(products), margin))


def nonnegative_minimum(matrix: Array, linear: Array) -> Array:
    """The u >= 0 that minimises 1/2 u'Au + b'u, by the active set of Lawson & Hanson (1974): float64 [T].

    Args:
        matrix: A, float64 [T, T], positive definite. linear: b, float64 [T].
    """
    found, is_free = np.zeros(len(linear)), np.zeros(len(linear), np.bool_)
    tolerance = 1e-12 * float(np.abs(linear).max(initial=0))
    for _ in range(3 * len(linear) + 10):  # each set is visited at most once; a few suffice
        descent = np.where(is_free, -np.inf, -(matrix @ found + linear))
        if descent.max(initial=-np.inf) <= tolerance:
            break
        is_free[int(descent.argmax())] = True
        while True:
            free = np.flatnonzero(is_free)
            target = np.linalg.solve(matrix[np.ix_(free, free)], -linear[free])
            if (target > 0).all():
                found[:] = 0
                found[free] = target
                break
            change = target - found[free]
            shares = np.divide(-found[free], change, out=np.zeros(len(free)), where=change < 0)[target <= 0]
            found[free] += shares.min() * change
            is_free[free[target <= 0][shares <= shares.min()]] = False
            found[~is_free] = 0
    return found
