"""Density storage: at a task's end each class keeps an even cover of a map of its samples, without outliers.

The map has few dimensions: the principal axes of the samples' features over all ranks, or t-SNE on rank 0. Samples far
from their neighbours in it are left out as outliers, and of the rest the more are left out the denser they lie
(`drb.coreset.density`). The list of a class is made once, over the samples of all ranks; when a class has to give
exemplars up, the last of its list go. A class whose samples come again is listed anew with those that are stored.

In prototypes neither step gained accuracy over a random choice. It is here to be compared with.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from drb.coreset.density import thinned
from drb.coreset.moments import moments_of, principal_axes
from drb.coreset.tsne import require_tsne, tsne
from drb.options import setting
from drb.seeding import sample_keys
from drb.training.method.needs import Needs
from drb.training.method.tasks import FinishedTask
from drb.training.terms.candidates import Candidates, Chosen, candidates_of, quotas_of, store
from drb.training.terms.term import Term

_ROWS = 4096
_BEFORE_TSNE = 50  # principal axes that t-SNE is given


class DensityStorage(Term):
    """Store samples that cover a map of each class evenly, without outliers, at the end of each task.

    It needs `rehearsal.admission=closed`.

    features:   what is mapped: the inputs as they are stored ("pixels"), or the network's features ("network")
    map:        of the class's samples: "pca", or "tsne", for which scikit-learn has to be installed
    dimensions: of a map by principal axes; t-SNE has 2
    outliers:   the share of a class's samples that is left out first
    neighbours: the one to which the distance counts
    """

    name = "density_storage"
    claims: ClassVar[frozenset[str]] = frozenset({"admission"})
    features: str = setting("pixels", one_of=("pixels", "network"))
    map: str = setting("pca", one_of=("pca", "tsne"))
    dimensions: int = setting(2, at_least=1)
    outliers: float = setting(0.05, at_least=0, below=1)
    neighbours: int = setting(10, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.map == "tsne":
            require_tsne("density_storage.map=tsne")

    def needs(self) -> Needs:
        return Needs(admission="closed", classes=True)

    def end_task(self, task: FinishedTask) -> None:
        capacity = task.capacity
        with task.edit() as edit:
            own = candidates_of(task, edit, self.features)
            quotas = quotas_of(task, own, capacity)
            lists = [self._listed(task, own, label, quota) for label, quota in quotas.items() if quota]
            ids, labels, places = (torch.cat(each) for each in zip(*lists, strict=True))
            store(task, edit, Chosen(ids, labels, places))

    def _listed(self, task: FinishedTask, own: Candidates, label: int, quota: int) -> tuple[Tensor, ...]:
        """The ids, labels and places of what a class keeps, in the order of its list. Collective."""
        members = own.at(own.labels == label)
        ids, is_new = task.gather(members.ids), task.gather(members.is_new)
        places = task.gather(members.places)
        order = ids.argsort() if is_new.any() else places.argsort()  # alike on any number of ranks
        if is_new.any():
            mapped = task.gather(self._mapped(task, members.points))
            order = order[task.of_first_rank(self._thinned(task, ids[order], mapped[order], quota))]
        ids = ids[order[:quota]]
        return ids, torch.full((len(ids),), label), torch.arange(len(ids))

    def _mapped(self, task: FinishedTask, points: Tensor) -> Tensor:
        """This rank's samples of a class on the principal axes of all ranks': float64 [n, d]. Collective."""
        moments = moments_of(torch.split(points, _ROWS), points.shape[1], task.world)
        dimensions = self.dimensions if self.map == "pca" else _BEFORE_TSNE
        axes = torch.from_numpy(principal_axes(moments, dimensions).copy())
        mean = torch.from_numpy(moments.mean)
        return torch.cat([(some.double() - mean) @ task.of_first_rank(axes) for some in torch.split(points, _ROWS)])

    def _thinned(self, task: FinishedTask, ids: Tensor, mapped: Tensor, size: int) -> Tensor:
        """Places of the kept samples among these of all ranks, as this rank finds them: int64 [size]."""
        assert task.rehearsal is not None
        seed = int(task.rehearsal.settings.seed)
        if self.map == "tsne":
            mapped = torch.from_numpy(tsne(mapped.numpy(), seed)) if task.world.is_main else mapped[:, :2]
        keys = sample_keys(ids.numpy(), seed)
        return thinned(mapped, keys, size, outliers=self.outliers, neighbours=self.neighbours)
