"""iCaRL (Rebuffi et al. 2017, arXiv 1611.07725): chosen exemplars, distillation, and the nearest mean as prediction.

Loss: the binary cross-entropy of each class, averaged over the classes seen so far. The target of a class of this task
is whether it is the row's; that of an earlier class is the sigmoid that the network of before gives. New rows and
exemplars count alike. The paper goes through all exemplars once per epoch; here they join the minibatches as in `er`.

At a task's end every class keeps the first K // C of its list, K the exemplars of all ranks and C the classes so far.
The lists of the task's classes are chosen by herding among all ranks' samples: each next sample brings the mean of the
list's features, of length 1 each, nearest to the mean of the class. The list is rank 0's on all ranks.

Prediction: the class whose exemplars' mean feature is nearest. Where the evaluated network is another than the trained
one (`terms=[ema]`), lists and means are those of its features.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drb.training.method.batch import Batch
from drb.training.method.frozen import FrozenNetwork
from drb.training.method.needs import Needs
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.strategies.strategy import Strategy
from drb.training.terms.nearest_mean import class_means, nearest_mean_scores, normalised_features
from drb.types import Minibatch


class IncrementalClassifier(Strategy):
    """Exemplars chosen by herding, distillation, and prediction by the nearest mean of exemplars (iCaRL)."""

    name = "icarl"
    claims: ClassVar[frozenset[str]] = Strategy.claims | {"adjust", "admission"}

    def needs(self) -> Needs:
        return Needs(exemplars="joined", admission="closed", classes=True)

    def begin_task(self, task: CurrentTask) -> None:
        if task.is_first:
            self.teacher: FrozenNetwork | None = None
            self.old_classes: list[int] = []
            self.means: Tensor | None = None
        self.new_classes = sorted(task.classes)
        if again := sorted({*self.old_classes} & {*self.new_classes}):
            raise ValueError(
                f"icarl chooses a class's exemplars in one task, but task {task.index + 1} ({task.name}) has the class "
                f"{again[0]} again; use scenario=class_incremental or another strategy"
            )

    # -- training

    def loss(self, batch: Batch) -> Tensor:
        outputs = batch.outputs()
        target = F.one_hot(batch.labels, outputs.shape[1]).to(outputs.dtype)
        if self.teacher is not None:
            taught = batch.extra_outputs(network=self.teacher.network_like(batch.step.network))
            target[:, self.old_classes] = taught[:, self.old_classes].sigmoid()
        seen = self.old_classes + self.new_classes
        rows = F.binary_cross_entropy_with_logits(outputs[:, seen], target[:, seen], reduction="none")
        return batch.mean(rows.mean(dim=1))

    # -- exemplars

    def end_task(self, task: FinishedTask) -> None:
        seen = self.old_classes + self.new_classes
        size = task.capacity // len(seen)
        if not size:
            raise ValueError(
                f"icarl keeps equally many exemplars of each class, but rehearsal.capacity is {task.capacity} on all "
                f"ranks together and there are {len(seen)} classes; raise it"
            )
        ids, places = _herded(task, self.new_classes, size)
        with task.edit() as edit:
            beyond = [stored.sample_id[torch.from_numpy(stored.key >= size)] for stored in edit.stored()]
            if beyond:
                edit.remove(torch.cat(beyond))
            for _, fields in task.batches():
                own = fields["sample_id"].to(ids.device)
                rows, which = (own[:, None] == ids[None, :]).nonzero(as_tuple=True)
                edit.insert({name: value[rows.to(value.device)] for name, value in fields.items()}, places[which])
        self.teacher, self.old_classes = FrozenNetwork.copy_of(task.network), seen
        self.means = class_means(task)

    # -- prediction

    def predict(self, network: nn.Module, inputs: Any) -> Any:
        if self.means is None:  # in the first task
            return network(inputs)
        return nearest_mean_scores(network, inputs, self.means)


def _herded(task: FinishedTask, classes: list[int], size: int) -> tuple[Tensor, Tensor]:
    """The ids of the chosen samples of all ranks, and their places in the lists of their classes: int64 [n] each."""
    features, labels, ids = _features(task)
    chosen, places = [], []
    for label in classes:
        members = labels == label
        everyone, of_whom = task.gather(features[members]), task.gather(ids[members])
        order = of_whom.argsort()  # alike on any number of ranks
        listed = order[herd(everyone[order], size)]
        chosen.append(of_whom[listed])
        places.append(torch.arange(len(listed), device=listed.device))
    return task.of_first_rank(torch.cat(chosen)), torch.cat(places)


def _features(task: FinishedTask) -> tuple[Tensor, Tensor, Tensor]:
    """Features of length 1 of this rank's samples, float32 [n, F]; their classes and ids, int64 [n] each."""
    parts = []

    def keep(inputs: Any, fields: Minibatch) -> Tensor:
        features = normalised_features(task.evaluated_network, inputs)
        parts.append((features, task.objective.labels(fields), fields["sample_id"]))
        return features.new_zeros(1)

    task.sum(keep)
    features, labels, ids = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(labels), torch.cat(ids)


def herd(features: Tensor, size: int) -> Tensor:
    """The list of samples of which each brings the mean of those so far nearest to the mean of all.

    Args:
        features: [n, F]; it is computed in float64.
    Returns:
        Places in `features` in the order of choice, without repeats: int64 [min(size, n)].
    """
    features = features.double()
    mean, total = features.mean(0), torch.zeros_like(features[0]) if len(features) else features.sum(0)
    is_listed = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    listed = torch.zeros(min(size, len(features)), dtype=torch.int64, device=features.device)
    for place in range(len(listed)):
        distances = (mean - (total + features) / (place + 1)).norm(dim=1)
        best = distances.masked_fill(is_listed, torch.inf).argmin()
        listed[place], is_listed[best] = best, True
        total = total + features[best]
    return listed
