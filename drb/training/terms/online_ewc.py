"""Online elastic weight consolidation (Schwarz et al. 2018, arXiv 1805.06370): one penalty for all earlier tasks.

After each task F ← gamma F + F_t and θ* ← θ; the penalty is strength / 2 · Σ F (θ − θ*)². F_t is the Fisher information
of the task, see `drb.training.terms.ewc`. With gamma below 1 old tasks fade.
"""

from __future__ import annotations

from drb.options import setting
from drb.training.method.tasks import FinishedTask
from drb.training.terms.ewc import Fisher


class OnlineElasticWeightConsolidation(Fisher):
    """Hold weights near the last task's by the information of all earlier tasks.

    gamma: what is left of the earlier tasks' importance at the end of each task
    """

    name = "online_ewc"
    gamma: float = setting(1.0, at_least=0, at_most=1)

    def end_task(self, task: FinishedTask) -> None:
        self.importance.mul_(self.gamma).add_(self.information(task))
        self.anchor = task.weights()
