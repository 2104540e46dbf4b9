"""DER, dark experience replay (Buzzega et al. 2020, arXiv 2004.07211): exemplars keep the outputs that they had.

Each sample is stored with the network's outputs for it, as they were in the step in which it was offered; if it is
offered again, as in each epoch, they become those of then. The loss is the mean loss of the new rows plus alpha times
the mean, over the exemplars of all ranks, of the mean square difference between an exemplar's outputs and its stored
ones. Outputs of classes that the head did not have yet are left out. An exemplar without stored outputs, as in a buffer
that `er` filled, counts 0.

The mean is over outputs, so what an alpha does depends on their number: 1.0 for 10 classes and 0.3 for 100 are the
paper's best.
"""

from __future__ import annotations

from torch import Tensor

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.needs import LateField, Needs
from drb.training.strategies.strategy import Strategy

STORED = "logits"


class DarkExperienceReplay(Strategy):
    """Replay of the outputs that exemplars had when they were stored.

    alpha: the weight of the difference to stored outputs
    """

    name = "der"
    alpha: float = setting(1.0, at_least=0)

    def needs(self) -> Needs:
        return Needs(exemplars="joined", late={STORED: LateField.outputs()})

    def loss(self, batch: Batch) -> Tensor:
        outputs = batch.outputs()
        batch.attach(**{STORED: outputs})
        new = batch.mean(batch.row_losses(outputs), batch.new)
        return new + self.alpha * batch.mean(batch.distance(outputs, STORED, batch.exemplars), batch.exemplars)
