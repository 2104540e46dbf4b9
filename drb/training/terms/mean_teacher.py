"""Mean teacher (Tarvainen & Valpola 2017, arXiv 1703.01780): on exemplars, stay near the outputs of averaged weights.

The teacher is the exponential moving average of the weights, which is evaluated, too. As a teacher for rehearsal it is
used by CLS-ER (Arani et al. 2022, arXiv 2201.12604). It costs a forward pass over the exemplars of each minibatch.
"""

from __future__ import annotations

from torch import Tensor

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.needs import Needs
from drb.training.terms.ema import ExponentialMovingAverage


class MeanTeacher(ExponentialMovingAverage):
    """Add strength · mean square difference between the outputs for exemplars and those of the averaged weights.

    strength: of the difference in the loss
    """

    name = "mean_teacher"
    strength: float = setting(0.1, at_least=0)

    def needs(self) -> Needs:
        return Needs(exemplars="joined")

    def loss(self, batch: Batch) -> Tensor:
        rows = batch.exemplars
        taught = batch.extra_outputs(rows, weights=self.average)
        return self.strength * batch.mean(batch.distance(batch.outputs(), taught, rows), rows)
