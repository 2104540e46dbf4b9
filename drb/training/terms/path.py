"""How much each weight's path lowered the loss: what SI and RWalk measure in every step.

To first order a step changes the loss by Σ g Δθ, with the gradient g of the loss alone (without penalties, and before
any projection) and the change Δθ that the optimizer made. Both are alike on all ranks, so nothing is exchanged.
"""

from __future__ import annotations

from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient, ParameterVector
from drb.training.terms.quadratic import QuadraticPenalty


class PathPenalty(QuadraticPenalty):
    """A quadratic penalty whose importance comes from the path of the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._gradient: ParameterVector | None = None
        self._before: ParameterVector | None = None

    def observe(self, step: Step, gradient: Gradient) -> None:
        super().observe(step, gradient)
        self._gradient = gradient.copied_to(self._gradient)
        self._before = step.weights.copied_to(self._before)

    @property
    def gradient(self) -> Gradient:
        """The gradient of the loss alone in the step that was just made."""
        assert self._gradient is not None
        return self._gradient

    def decrease(self, step: Step) -> ParameterVector:
        """−g Δθ of the step that was just made, for each weight that has a gradient."""
        assert self._before is not None
        return self.gradient * (self._before - step.weights)
