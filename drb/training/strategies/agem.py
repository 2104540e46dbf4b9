"""A-GEM (Chaudhry et al. 2019, arXiv 1812.00420): steps do not climb the mean loss of earlier tasks.

What is trained on is the minibatch alone. The reference g_ref is the gradient of the mean loss on the drawn exemplars
of earlier tasks, of all ranks. Where the gradient g points against it, g·g_ref < 0, the step is made along its
projection g - (g·g_ref / g_ref·g_ref) g_ref. Both are reduced over the ranks before, so every rank finds the same.

It is a strategy and no term, since the paper says what is trained on, too; penalties and averages compose with it.
"""

from __future__ import annotations

from drb.training.method.needs import Needs
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient
from drb.training.strategies.strategy import Strategy

_SMALLEST = 1e-12


class AveragedGradientEpisodicMemory(Strategy):
    """The minibatch's gradient, projected so that the exemplars' mean loss does not rise."""

    name = "agem"

    def needs(self) -> Needs:
        return Needs(exemplars="apart", references="past")

    def project(self, step: Step, gradient: Gradient) -> None:
        for reference in step.references:  # none in the first task
            overlap = (gradient @ reference).clamp(max=0)
            gradient.sub_(reference * (overlap / (reference @ reference).clamp_min(_SMALLEST)))
