"""Experience replay (Chaudhry et al. 2019, arXiv 1902.10486): one forward on the minibatch and the exemplars, the mean
loss over both, or a mean of the two means with given weights.

With importance weights the rehearsed rows' mean loss is an estimate of the mean loss on all samples offered so far,
whatever the proportions in which exemplars are drawn (Horvitz & Thompson 1952). They are for estimates: proportions
that draw some strata more often to learn from them are undone by them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.needs import MASS, Needs
from drb.training.strategies.strategy import Strategy


class ExperienceReplay(Strategy):
    """The mean loss on the extended minibatch: the rehearsed rows count like the new ones.

    rehearsed_share:    the weight w of the rehearsed rows: (1 − w) · mean loss of new rows + w · mean loss of rehearsed
        rows, as soon as there are exemplars. None: each row counts alike
    importance_weights: what rehearsed rows' losses are multiplied by: none, unbiased (the rehearsed loss is an unbiased
        estimate of the loss on all the past, with weights that can be large), clipped (at most importance_clip), or
        self_normalised (divided by their mean on the rank)
    importance_clip:    the largest weight, 1 being that of a uniform draw
    by_mass:            rehearsed rows count as many samples as they stand for, which cluster_storage stores with them;
        weights are divided by their mean on the rank
    """

    name = "er"
    rehearsed_share: float | None = setting(None, at_least=0, at_most=1)
    importance_weights: str = setting("none", one_of=("none", "unbiased", "clipped", "self_normalised"))
    importance_clip: float = setting(5.0, above=0)
    by_mass: bool = False

    def needs(self) -> Needs:
        return Needs(exemplars="joined", importance=self.importance_weights != "none")

    def loss(self, batch: Batch) -> Tensor:
        share, is_weighted = self.rehearsed_share, self.importance_weights != "none" or self.by_mass
        if (share is None and not is_weighted) or batch.num_rows_total == batch.new_rows_total:
            return super().loss(batch)
        rows = batch.row_losses(batch.outputs())
        if is_weighted:
            rows = torch.cat([rows[batch.new], rows[batch.exemplars] * self._weights(batch)])
        if share is None:
            return batch.mean(rows)
        return (1 - share) * batch.mean(rows, batch.new) + share * batch.mean(rows, batch.exemplars)

    def _weights(self, batch: Batch) -> Tensor:
        """What each exemplar's loss is multiplied by, float32 [r]."""
        if self.importance_weights == "none":
            return self._masses(batch)
        weights = batch.importance
        if self.importance_weights == "clipped":
            weights = weights.clamp_max(self.importance_clip)
        if self.importance_weights == "self_normalised":
            weights = _of_mean_one(weights)
        return weights * self._masses(batch) if self.by_mass else weights

    def _masses(self, batch: Batch) -> Tensor:
        """How many samples each exemplar stands for, over their mean: float32 [r]."""
        if MASS not in batch:
            raise ValueError(
                "strategy.by_mass weighs exemplars by the number of samples that they stand for, which nothing stores: "
                "add terms=[cluster_storage]"
            )
        return _of_mean_one(batch[MASS][batch.exemplars][:, 0].nan_to_num(1.0))


def _of_mean_one(weights: Tensor) -> Tensor:
    return weights / weights.mean().clamp_min(torch.finfo(weights.dtype).tiny)
