"""The exponential moving average of the weights over optimiser steps (Polyak & Juditsky 1992; as a network to evaluate
in continual learning: Carta et al. 2023, arXiv 2306.16817): evaluated in place of the last weights.

After t steps of a task the momentum is at most t / (t + 4). The weights of step s then count like s³, so their mean age
is t / 5 (polynomial-decay averaging, Shamir & Zhang 2013, arXiv 1212.1824). Without that the newest of many short tasks
would be evaluated as if it had hardly been learnt.

Running statistics are not averaged over steps: they are the trained network's, averaged over the ranks.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from drb.options import setting
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import ParameterVector
from drb.training.method.tasks import CurrentTask
from drb.training.terms.term import Term

_DECAY = 4  # the larger, the fewer steps the average reaches back over: 1 / (_DECAY + 1) of those of the task


class ExponentialMovingAverage(Term):
    """Evaluate the average of the weights that there were after each step, older ones counting less.

    momentum: what is left of the average at each step; less in a task's first steps
    """

    name = "ema"
    momentum: float = setting(0.995, at_least=0, below=1)

    def begin_task(self, task: CurrentTask) -> None:
        if task.is_first:
            self.average = task.weights()
        self.steps = 0  # of the task

    def updated(self, step: Step) -> None:
        self.steps += 1
        self.average.lerp_(step.weights, 1 - min(self.momentum, self.steps / (self.steps + _DECAY)))

    def evaluated_network(self, network: nn.Module) -> nn.Module:
        averaged = copy.deepcopy(network)
        with torch.no_grad():
            ParameterVector.weights_of(averaged).copy_(self.average)
        return averaged
