"""Nearest mean of exemplars (iCaRL, Rebuffi et al. 2017, arXiv 1611.07725): predict the class whose mean is nearest.

At a task's end the mean of each class's exemplars is taken over all ranks' buffers, in the space of the L2-normalised
features of the network that is evaluated. A sample's score for a class is minus the distance of its normalised features
to the normalised mean; a class without exemplars cannot win.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drb.training.method.needs import Needs
from drb.training.method.tasks import FinishedTask
from drb.training.terms.term import Term
from drb.types import Minibatch


class NearestMean(Term):
    """Predict by the distance to the mean features of each class's exemplars."""

    name = "nearest_mean"

    def needs(self) -> Needs:
        return Needs(exemplars="joined", classes=True)

    def end_task(self, task: FinishedTask) -> None:
        self.means = class_means(task)

    def predict(self, network: nn.Module, inputs: Any) -> Tensor:
        return nearest_mean_scores(network, inputs, self.means)


def class_means(task: FinishedTask) -> Tensor:
    """The normalised mean of the exemplars' normalised features, of all ranks, NaN without any: float32 [C, F].

    Collective.
    """
    network, num_classes = task.evaluated_network, task.num_outputs

    def sums(inputs: Any, fields: Minibatch) -> Tensor:
        members = F.one_hot(task.objective.labels(fields), num_classes).float()
        return torch.cat([members.T @ normalised_features(network, inputs), members.sum(0)[:, None]], dim=1)

    totals = task.sum(sums, over="stored")
    return F.normalize(totals[:, :-1]).masked_fill(totals[:, -1:] == 0, torch.nan)


def nearest_mean_scores(network: nn.Module, inputs: Any, means: Tensor) -> Tensor:
    """Minus the distance to each mean, −∞ where there is none: float32 [B, C]."""
    distances = torch.cdist(normalised_features(network, inputs), means.nan_to_num())
    return (-distances).masked_fill(means.isnan().any(dim=1), -torch.inf)


def normalised_features(network: nn.Module, inputs: Any) -> Tensor:
    """float32 [B, F], of length 1.

    Raises:
        ValueError: a network that does not tell its features.
    """
    features = getattr(network, "features", None)
    if features is None:
        raise ValueError(f"nearest means need a network with features(inputs), which {type(network).__name__} has not")
    return F.normalize(features(inputs).float())
