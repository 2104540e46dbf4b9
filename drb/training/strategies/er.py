"""Experience replay (Chaudhry et al. 2019, arXiv 1902.10486): one forward on the minibatch and the exemplars, the mean
loss over both, or a mean of the two means with given weights.
"""

from __future__ import annotations

from torch import Tensor

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.needs import Needs
from drb.training.strategies.strategy import Strategy


class ExperienceReplay(Strategy):
    """The mean loss on the extended minibatch: the rehearsed rows count like the new ones.

    rehearsed_share: the weight w of the rehearsed rows: (1 − w) · mean loss of new rows + w · mean loss of rehearsed
        rows, as soon as there are exemplars. None: each row counts alike
    """

    name = "er"
    rehearsed_share: float | None = setting(None, at_least=0, at_most=1)

    def needs(self) -> Needs:
        return Needs(exemplars="joined")

    def loss(self, batch: Batch) -> Tensor:
        share = self.rehearsed_share
        if share is None or batch.num_rows_total == batch.new_rows_total:
            return super().loss(batch)
        rows = batch.row_losses(batch.outputs())
        return (1 - share) * batch.mean(rows, batch.new) + share * batch.mean(rows, batch.exemplars)
