"""LP-FT for continued pretraining (Kumar et al. 2022, arXiv 2202.10054; Sun et al. 2023, arXiv 2302.13289).

Each task has two phases. Linear probing trains the head alone, while the body, its running statistics included, stays
as it is. Fine-tuning goes on from there with everything, at a smaller learning rate. A head that fits the features
does not distort them while the body is trained. Nothing is stored. The papers' epochs and rates depend on their models
and are options here. What representations are worth is measured by `training.knn`.
"""

from __future__ import annotations

from drb.options import setting
from drb.training.method.needs import Phase
from drb.training.strategies.strategy import Strategy


class LinearProbeThenFineTune(Strategy):
    """In each task the head is trained first, then everything at a smaller learning rate.

    probe_epochs: of the head alone; fine-tuning has training.epochs
    finetune_rate: times the run's learning rate
    """

    name = "lp_ft"
    probe_epochs: int = setting(1, at_least=1)
    finetune_rate: float = setting(0.1, above=0)

    def next_phase(self, task: int, done: int) -> Phase | None:
        phases = [Phase(self.probe_epochs, trainable=("head",)), Phase(rate=self.finetune_rate)]
        return phases[done] if done < len(phases) else None
