"""Thin versions of the field's methods: what the seam between trainer and methods has to carry."""

from __future__ import annotations

import torch

from drb.training.method.needs import Needs
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient
from drb.training.method.tasks import FinishedTask
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


class RefreshedDarkExperienceReplay(DarkExperienceReplayPlusPlus):
    """DER++ whose stored outputs are those of the network at the end of the last task."""

    def end_task(self, task: FinishedTask) -> None:
        with task.edit() as edit, torch.no_grad():
            for stored in edit.stored("image", "label"):
                inputs, _ = task.prepared(stored.fields)
                edit.rewrite("logits", task.network(inputs).float(), stored.sample_id)
