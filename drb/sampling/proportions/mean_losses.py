"""The base of proportions that follow the mean losses of strata, as rehearsed rows have shown them lately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from drb.options import setting
from drb.sampling.feedback import Feedback
from drb.sampling.means import DriftingMeans
from drb.sampling.proportions.base import StratumWeights


class MeanLosses(StratumWeights):
    """Weights of strata by `means`, their mean losses so far.

    memory: how much of a stratum's mean loss is kept when one more of its rows was rehearsed
    """

    needs_feedback: ClassVar[bool] = True
    memory: float = setting(0.9, at_least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.means = DriftingMeans(self.memory)

    def observe(self, feedback: Feedback) -> None:
        self.means.observe(feedback)

    def state_dict(self) -> dict[str, Any]:
        return self.means.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.means.load_state_dict(state)
