"""Thin versions of the field's methods: what the seam between trainer and methods has to carry."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.needs import LateField, Needs, Phase
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient, ParameterVector, Weights
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.optimizers import Sgd
from drb.training.strategies import ExperienceReplay, Strategy
from drb.training.terms import Term


class DarkExperienceReplayPlusPlus(Strategy):
    """DER++ (Buzzega et al. 2020, arXiv 2004.07211): replay of labels and of the outputs that exemplars had."""

    alpha: float = setting(1.0, at_least=0)
    beta: float = setting(0.5, at_least=0)
    shared_draw: bool = False

    def needs(self) -> Needs:
        return Needs(exemplars="joined", draws=1 if self.shared_draw else 2, late={"logits": LateField.outputs()})

    def loss(self, batch: Batch) -> Tensor:
        outputs = batch.outputs()
        batch.attach(logits=outputs)
        first, last = batch.draw(0), batch.draw(-1)
        rows = batch.row_losses(outputs)
        return (
            batch.mean(rows, batch.new)
            + self.beta * batch.mean(rows, last)
            + self.alpha * batch.mean(batch.distance(outputs, "logits", first), first)
        )


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


class MaximallyInterferedRetrieval(ExperienceReplay):
    """MIR (Aljundi et al. 2019, arXiv 1908.04742): the exemplars whose loss a step on the new rows raises most."""

    candidates: int = setting(8, at_least=1)

    def needs(self) -> Needs:
        return Needs(exemplars="joined", candidates=self.candidates)

    def select(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            before = batch.row_losses(batch.extra_outputs(batch.exemplars), batch.exemplars)
            after = batch.extra_outputs(batch.exemplars, weights=self._virtual_step(batch))
            interference = batch.row_losses(after, batch.exemplars) - before
        return interference.topk(batch.num_selected).indices

    def _virtual_step(self, batch: Batch) -> Weights:
        with torch.enable_grad():
            rows = batch.row_losses(batch.extra_outputs(batch.new, gradients=True), batch.new)
            loss = rows.sum() / max(1, len(rows))
            named = dict(batch.step.network.named_parameters())
            gradients = torch.autograd.grad(loss, list(named.values()))
        gradient = ParameterVector(dict(zip(named, gradients, strict=True)))
        return batch.step.weights - batch.step.rate * gradient


class LinearProbeThenFineTune(Strategy):
    """LP-FT (Kumar et al. 2022, arXiv 2202.10054): the head first, then all from there at a lower rate."""

    rate: float = setting(0.01, above=0)

    def next_phase(self, task: int, done: int) -> Phase | None:
        phases = [Phase(1, trainable=("head",)), Phase(1, optimizer=Sgd(lr=self.rate))]
        return phases[done] if done < len(phases) else None


class NearestMeanOfExemplars(ExperienceReplay):
    """iCaRL's prediction (Rebuffi et al. 2017, arXiv 1611.07725): the class whose exemplars' mean is nearest."""

    def end_task(self, task: FinishedTask) -> None:
        num_classes = task.network.num_classes

        def sums(inputs: Tensor, fields: dict[str, Tensor]) -> Tensor:
            features = F.normalize(task.network.features(inputs))
            members = F.one_hot(fields["label"], num_classes).to(features.dtype)
            return torch.cat([members.T @ features, members.sum(0)[:, None]], dim=1)

        totals = task.sum(sums, over="stored")
        self.means = F.normalize(totals[:, :-1] / totals[:, -1:].clamp_min(1))

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        return -torch.cdist(F.normalize(network.features(inputs)), self.means)


class RefreshedDarkExperienceReplay(DarkExperienceReplayPlusPlus):
    """DER++ whose stored outputs are those of the network at the end of the last task."""

    def end_task(self, task: FinishedTask) -> None:
        with task.edit() as edit, torch.no_grad():
            for stored in edit.stored("image", "label"):
                inputs, _ = task.prepared(stored.fields)
                edit.rewrite("logits", task.network(inputs).float(), stored.sample_id)


class Herding(NearestMeanOfExemplars):
    """iCaRL's exemplars: of each new class those whose running mean follows the class mean, on any number of ranks."""

    per_class: int = setting(3, at_least=1)

    def end_task(self, task: FinishedTask) -> None:
        own = [fields for _, fields in task.batches()]
        with torch.no_grad():
            features = torch.cat([F.normalize(task.network.features(inputs)) for inputs, _ in task.batches()])
        mine = {name: torch.cat([fields[name] for fields in own]) for name in own[0]}
        everyone = task.gather(features), task.gather(mine["label"]), task.gather(mine["sample_id"])
        chosen: dict[int, int] = {}
        for label in task.classes:
            members = everyone[1] == label
            order = everyone[2][members].argsort()  # the same on any number of ranks
            places = herd(everyone[0][members][order], self.per_class)
            chosen |= {int(everyone[2][members][order][place]): key for key, place in enumerate(places)}
        rows = torch.tensor([i for i, n in enumerate(mine["sample_id"].tolist()) if n in chosen], dtype=torch.int64)
        keys = torch.tensor([chosen[int(mine["sample_id"][row])] for row in rows], dtype=torch.int64)
        with task.edit() as edit:
            edit.remove(mine["sample_id"])
            edit.insert({name: value[rows] for name, value in mine.items()}, keys=keys)
        super().end_task(task)


def herd(features: Tensor, count: int) -> Iterator[int]:
    """Places in the order of choice: each brings the mean of those so far nearest to the mean of all."""
    mean, total, left = features.mean(0), torch.zeros_like(features[0]), list(range(len(features)))
    for place in range(min(count, len(left))):
        candidates = (total + features[left]) / (place + 1)
        best = left.pop(int((mean - candidates).norm(dim=1).argmin()))
        total += features[best]
        yield best
