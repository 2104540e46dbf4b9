"""DER++ (Buzzega et al. 2020, arXiv 2004.07211): dark experience replay of outputs and of labels.

To the loss of DER (`drb.training.strategies.der`) it adds beta times the mean loss of a second, independent draw of
exemplars. With `shared_draw` both terms look at the same exemplars: a step then costs what one of `er` does, and on
small online streams it is at least as good.
"""

from __future__ import annotations

from torch import Tensor

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.needs import LateField, Needs
from drb.training.strategies.der import STORED
from drb.training.strategies.strategy import Strategy


class DarkExperienceReplayPlusPlus(Strategy):
    """Replay of the outputs that exemplars had when they were stored, and of their labels.

    alpha: the weight of the difference to stored outputs
    beta: the weight of the loss on exemplars
    shared_draw: whether both look at the same exemplars, not at two independent draws
    """

    name = "derpp"
    alpha: float = setting(1.0, at_least=0)
    beta: float = setting(0.5, at_least=0)
    shared_draw: bool = False

    def needs(self) -> Needs:
        return Needs(exemplars="joined", draws=1 if self.shared_draw else 2, late={STORED: LateField.outputs()})

    def loss(self, batch: Batch) -> Tensor:
        outputs = batch.outputs()
        batch.attach(**{STORED: outputs})
        first, last = batch.draw(0), batch.draw(-1)
        rows = batch.row_losses(outputs)
        return (
            batch.mean(rows, batch.new)
            + self.beta * batch.mean(rows, last)
            + self.alpha * batch.mean(batch.distance(outputs, STORED, first), first)
        )
