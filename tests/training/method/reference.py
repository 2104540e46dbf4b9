"""Thin versions of the field's methods: what the seam between trainer and methods has to carry."""

from __future__ import annotations

import torch

from drb.options import setting
from drb.training.method.needs import Needs
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient, Weights
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.strategies.derpp import DarkExperienceReplayPlusPlus
from drb.training.terms import Term


class AveragedGradientEpisodicMemory(Term):
    """A-GEM (Chaudhry et al. 2019, arXiv 1812.00420): do not climb the loss on the exemplars."""

    own_draw: bool = False

    def needs(self) -> Needs:
        return Needs(exemplars="apart", references="one", own_draw=self.own_draw)

    def project(self, step: Step, gradient: Gradient) -> None:
        for reference in step.references:  # none before there are exemplars
            overlap = (gradient @ reference).clamp(max=0)
            gradient.sub_(reference * (overlap / (reference @ reference).clamp_min(1e-12)))


class SynapticIntelligence(Term):
    """SI (Zenke et al. 2017, arXiv 1703.04200): importance is the part that a weight's path had in the loss."""

    strength: float = setting(1.0, at_least=0)
    damping: float = setting(0.1, above=0)

    def begin_task(self, task: CurrentTask) -> None:
        if task.is_first:
            self.path, self.importance, self.anchor = task.zeros(), task.zeros(), task.weights()

    def observe(self, step: Step, gradient: Gradient) -> None:
        self._gradient, self._before = gradient.clone(), step.weights.clone()

    def penalise(self, weights: Weights, gradient: Gradient) -> None:
        gradient.add_(2 * self.strength * (self.importance * (weights - self.anchor)))

    def updated(self, step: Step) -> None:
        self.path -= self._gradient * (step.weights - self._before)

    def end_task(self, task: FinishedTask) -> None:
        weights = task.weights()
        moved = (weights - self.anchor).map(torch.square)
        self.importance += self.path.map(torch.relu) / (moved + self.damping)
        self.path, self.anchor = task.zeros(), weights


class RefreshedDarkExperienceReplay(DarkExperienceReplayPlusPlus):
    """DER++ whose stored outputs are those of the network at the end of the last task."""

    def end_task(self, task: FinishedTask) -> None:
        with task.edit() as edit, torch.no_grad():
            for stored in edit.stored("image", "label"):
                inputs, _ = task.prepared(stored.fields)
                edit.rewrite("logits", task.network(inputs).float(), stored.sample_id)
