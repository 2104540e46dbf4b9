"""Cluster storage: at a task's end each class keeps the samples nearest to the centroids of its clusters.

A class that may keep m exemplars is divided into m clusters by k-means over all ranks, and keeps the sample nearest to
each centroid with the cluster's mass, the number of samples that it stands for: 'approximate' of 3A (Madl et al. 2023,
arXiv 2307.01875). When a class has to give exemplars up, those that it has are clustered, each with its mass.

`inducing_points` is 3A's second step, 'adapt', for small budgets: kernel inducing points (arXiv 2011.00050). The inputs
of the task's exemplars are moved so that a kernel regression on all exemplars predicts the data of all ranks well, and
rounded to the record's dtype. `noise` is the third step, 'anonymize': a task's samples become centroids of k-means with
noise, and none of them is stored itself.

While a task is trained its own rows are not rehearsed, as with `task_end_storage`.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from drb.coreset.inducing_points import adapted
from drb.coreset.kmeans import kmeans, medoids
from drb.coreset.privacy import epsilon_of, gaussian_dp, private_kmeans
from drb.options import setting
from drb.seeding import sample_keys
from drb.training.method.needs import MASS, LateField, Needs
from drb.training.method.tasks import FinishedTask
from drb.training.terms.candidates import Candidates, Chosen, candidates_of, quotas_of, store
from drb.training.terms.term import Term

_LEARNT_FROM = 4000  # samples of all ranks that inducing points are fitted to
_AT_ONCE = 512  # of them in a step
_STEPS = 60  # more gained nothing


class ClusterStorage(Term):
    """Store the samples nearest to the centroids of each class's clusters, at the end of each task.

    It needs `rehearsal.admission=closed`.

    features: what is clustered: the inputs as they are stored ("pixels"), or the network's features ("network")
    steps:    of k-means, at most
    inducing_points: keep at most so many exemplars of a class, and move their inputs; null: keep samples as they are
    noise:    of what is stored, as a multiple of what one sample can change; smaller ones than 1 protect little
    clip:     the length to which samples are shortened before noise is added; null: half of that of a white image
    delta:    the δ for which the ε that the noise spends is told
    """

    name = "cluster_storage"
    claims: ClassVar[frozenset[str]] = frozenset({"admission"})
    features: str = setting("pixels", one_of=("pixels", "network"))
    steps: int = setting(30, at_least=1)
    inducing_points: int | None = setting(None, at_least=1, at_most=10)
    noise: float | None = setting(None, above=0)
    clip: float | None = setting(None, above=0)
    delta: float = setting(1e-5, above=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inducing_points is not None and self.noise is not None:
            raise ValueError(
                "cluster_storage.inducing_points fits exemplars to the samples that cluster_storage.noise protects: "
                "choose one of them"
            )
        if self.features == "network" and (self.inducing_points is not None or self.noise is not None):
            which = "inducing_points" if self.noise is None else "noise"
            raise ValueError(f"cluster_storage.{which} makes inputs: set cluster_storage.features=pixels")

    def needs(self) -> Needs:
        return Needs(admission="closed", classes=True, late={MASS: LateField(columns=1)}, rewrites=(MASS,))

    @property
    def epsilon(self) -> float:
        """The ε that the noise spends of a sample in each task that has the sample; infinite without noise."""
        return math.inf if self.noise is None else epsilon_of(gaussian_dp(self.noise, self.steps + 1), self.delta)

    def end_task(self, task: FinishedTask) -> None:
        capacity = task.capacity
        with task.edit() as edit:
            own = candidates_of(task, edit, self.features, with_mass=True)
            made = torch.zeros(0, dtype=torch.int64)
            if self.noise is not None:
                own, made = self._anonymised(task, own, capacity)
            quotas = quotas_of(task, own, capacity, self.inducing_points)
            lists = [self._listed(task, own, label, quota) for label, quota in quotas.items() if quota]
            ids, labels, places, mass = (torch.cat(each) for each in zip(*lists, strict=True))
            chosen = Chosen(ids, labels, places, mass)
            if self.inducing_points is not None:
                chosen = self._adapted(task, own, chosen)
            elif self.noise is not None:
                chosen = _with_values(chosen, own.at(torch.isin(own.ids, made)).of_all_ranks(task))
            store(task, edit, chosen)

    def _listed(self, task: FinishedTask, own: Candidates, label: int, quota: int) -> tuple[Tensor, ...]:
        """The ids, labels, places and masses of what a class keeps, the greatest masses first. Collective."""
        members = own.at(own.labels == label)
        ids, mass = task.gather(members.ids), task.gather(members.mass)
        if len(ids) > quota:
            clusters = kmeans(
                members.points, members.ids, quota, task.world, seed=_seed(task), weights=members.mass, steps=self.steps
            )
            ids, mass = medoids(members.points, members.ids, clusters, task.world), clusters.masses.cpu()
            ids, mass = ids[ids >= 0], mass[ids >= 0]
        order = torch.from_numpy(np.lexsort((ids.numpy(), -mass.numpy())))
        return ids[order], torch.full((len(ids),), label), torch.arange(len(ids)), mass[order]

    # -- exemplars that are no samples

    def _adapted(self, task: FinishedTask, own: Candidates, chosen: Chosen) -> Chosen:
        """The same, with moved inputs where the class is in the task. They are rank 0's. Collective."""
        points = own.at(torch.isin(own.ids, chosen.ids)).of_all_ranks(task)
        keys = torch.from_numpy((sample_keys(own.ids.numpy(), _seed(task)) >> np.uint64(1)).view(np.int64))
        everyone = task.gather(keys).sort().values
        data = own.at(keys <= everyone[:_LEARNT_FROM][-1]).of_all_ranks(task)
        data = data.at(torch.from_numpy(np.argsort(sample_keys(data.ids.numpy(), _seed(task)))))
        sums = torch.zeros(task.num_outputs, dtype=torch.float64).index_add_(0, data.labels, data.mass)
        moved = torch.isin(points.labels, torch.tensor(sorted(task.classes)))
        if not moved.all():
            task.say(
                "cluster_storage.inducing_points: points that are fitted to some classes only, as in this task, were "
                "worse than samples; they gain where all classes are in one task (docs/which_past.md)"
            )
        found = adapted(
            _as_unit(points.points),
            points.labels,
            _as_unit(data.points),
            data.labels,
            task.num_outputs,
            weights=data.mass / sums[data.labels],
            moved=moved,
            steps=_STEPS,
            rows=_AT_ONCE,
        )
        values = task.of_first_rank(_as_stored(found, points.points.dtype))
        return _with_values(chosen, replace(points, points=values).at(moved))

    def _anonymised(self, task: FinishedTask, own: Candidates, capacity: int) -> tuple[Candidates, Tensor]:
        """The stored candidates, and noisy centroids in the place of this rank's new ones; the ids that those have.

        A centroid takes the id of a sample of its class, picked by chance. Collective.
        """
        _require_plain_records(task)
        rng = torch.Generator().manual_seed(secrets.randbits(63))  # a seed that is known could be subtracted again
        new, parts = own.at(own.is_new), [own.at(~own.is_new)]
        labels = torch.unique(task.gather(own.labels))
        size = max(1, capacity // len(labels))
        for label in torch.unique(task.gather(new.labels)).tolist():
            members = new.at(new.labels == label)
            points = _as_unit(members.points)
            clip = self.clip or math.sqrt(points.shape[1]) / 2
            keys = sample_keys(members.ids.numpy(), _seed(task)) >> np.uint64(1)
            own_keys = torch.from_numpy(keys.view(np.int64))
            everyone = task.gather(own_keys).sort().values[:size]
            clusters = private_kmeans(
                points, len(everyone), task.world, noise=self.noise or 0.0, clip=clip, steps=self.steps, rng=rng
            )
            mine = torch.isin(own_keys, everyone)
            which = torch.searchsorted(everyone, own_keys[mine])
            some, mass = members.at(mine), clusters.masses.cpu()[which]
            values = _as_stored(clusters.centroids.cpu()[which], members.points.dtype)
            parts.append(replace(some, points=values, mass=mass).at(mass >= 1))
        task.say(
            f"cluster_storage: what is stored of this task's samples was made with (ε = {self.epsilon:.3g}, δ = "
            f"{self.delta:g})-differential privacy for each of them; the network was trained without"
        )
        made = torch.cat([part.ids for part in parts[1:]]) if len(parts) > 1 else torch.zeros(0, dtype=torch.int64)
        return Candidates(*(torch.cat([getattr(p, n) for p in parts]) for n in own.__dataclass_fields__)), made


def _with_values(chosen: Chosen, made: Candidates) -> Chosen:
    """The same; what was chosen of `made` is stored with its points."""
    values = dict(zip(made.ids.tolist(), made.points, strict=True))
    return replace(chosen, values=values)


def _require_plain_records(task: FinishedTask) -> None:
    """Raise ValueError if records have fields of the samples that noise does not cover."""
    covered = {"sample_id", "task", task.objective.class_field, getattr(task.objective, "input", "image")}
    if more := sorted(next(task.batches())[1].keys() - covered):
        raise ValueError(
            f"cluster_storage.noise covers the network's input, but records also have the field {more[0]!r} of a "
            "sample: leave it out of the data"
        )


def _as_unit(points: Tensor) -> Tensor:
    """Points as float64, bytes divided by 255."""
    return points.double() / 255 if points.dtype == torch.uint8 else points.double()


def _as_stored(points: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest values that a record can hold."""
    return (points * 255).round().clamp(0, 255).to(dtype) if dtype == torch.uint8 else points.to(dtype)


def _seed(task: FinishedTask) -> int:
    assert task.rehearsal is not None
    return int(task.rehearsal.settings.seed)
