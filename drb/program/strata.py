"""Groups of the training samples that are found before training, as fields by which exemplars can be counted.

`strata.clusters=20` gives every sample a field `cluster`, its nearest k-means centroid, and `strata.prior_loss_bins=10`
a field `prior_loss`, the bin of its loss under a network that was trained before. `rehearsal.stratum=cluster` counts
exemplars by it. Each rank looks at its share of the samples; the groups are alike on any number of ranks. They are
found anew whenever a run is started or resumed, and a run that goes on compares them with those it had.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from drb.coreset.kmeans import kmeans, nearest
from drb.data.datasets import Dataset, erased_rows
from drb.data.identity import hash_of_tensors
from drb.data.with_columns import with_columns
from drb.distributed.reduction import gather_rows
from drb.distributed.world import World
from drb.options import setting
from drb.seeding import sample_keys
from drb.training.augment import Preprocess
from drb.training.models.network import Network
from drb.training.models.outputs import DESCRIPTION_FILE, saved_outputs
from drb.training.models.saved import load_network
from drb.types import Int64Array, Minibatch

CLUSTER, PRIOR_LOSS = "cluster", "prior_loss"
_CLUSTERED = 65_536  # samples of all ranks among which centroids are found; all samples are then given to them
_ROWS = 512


@dataclasses.dataclass
class StrataSettings:
    """
    clusters:        how many k-means clusters the training samples are divided into (field cluster); null none
    features:        what is clustered: pixels, the samples as they are; or network, the features that it gives
    prior_loss_bins: equally large bins of the training samples by their loss under the network (field prior_loss); null
                     none
    network:         the directory of a finished run, for features=network and prior_loss_bins
    """

    clusters: int | None = setting(None, at_least=1)
    features: str = setting("pixels", one_of=("pixels", "network"))
    prior_loss_bins: int | None = setting(None, at_least=2)
    network: str | None = None

    @property
    def fields(self) -> set[str]:
        """What samples get."""
        found = {CLUSTER: self.clusters, PRIOR_LOSS: self.prior_loss_bins}
        return {name for name, number in found.items() if number is not None}

    def check(self) -> None:
        """Raise ValueError for a network that is missing, or that nothing needs."""
        needs = self.prior_loss_bins is not None or (self.clusters is not None and self.features == "network")
        if needs and self.network is None:
            raise ValueError(
                "strata.features=network and strata.prior_loss_bins need strata.network=DIR, the directory of a "
                "finished run"
            )
        if self.network is not None and not needs:
            raise ValueError(
                f"strata.network={self.network} is used by nothing: set strata.clusters with strata.features=network, "
                "or strata.prior_loss_bins"
            )


def with_strata(dataset: Dataset, settings: StrataSettings, world: World, seed: int) -> Dataset:
    """The data set whose training samples have the fields that the settings ask for. Collective.

    Raises:
        ValueError: a network that cannot be read or takes other samples.
    """
    if not settings.fields:
        return dataset
    columns = _Finder(dataset, settings, world, seed).columns()
    parts = {f"strata/{name}": (len(column), hash_of_tensors(column)) for name, column in columns.items()}
    identity = dataclasses.replace(dataset.identity, parts={**dataset.identity.parts, **parts})
    return dataclasses.replace(dataset, train=with_columns(dataset.train, columns), identity=identity)


class _Finder:
    """Finds the groups of the samples that are this rank's share: every W-th one."""

    def __init__(self, dataset: Dataset, settings: StrataSettings, world: World, seed: int) -> None:
        self._dataset, self._settings, self._world, self._seed = dataset, settings, world, seed
        erased = erased_rows(dataset.train)
        self._there = np.arange(len(dataset.train)) if erased is None else np.flatnonzero(~erased)
        self._own = self._there[world.rank :: world.world_size]
        self._network: Network | None = None
        if settings.network is not None:
            self._open(Path(settings.network).expanduser())

    def columns(self) -> dict[str, Tensor]:
        """int64 [n] by field. Collective."""
        found = {}
        if self._settings.clusters is not None:
            found[CLUSTER] = self._of_all(self._clusters(self._settings.clusters))
        if self._settings.prior_loss_bins is not None:
            losses = self._of_all(self._losses())
            order = np.lexsort((self._dataset.train.sample_ids[self._there], losses[self._there].numpy()))
            bins = torch.zeros(len(losses), dtype=torch.int64)
            numbers = np.arange(len(order)) * self._settings.prior_loss_bins // len(order)
            bins[torch.from_numpy(self._there[order])] = torch.from_numpy(numbers)
            found[PRIOR_LOSS] = bins
        return found

    def _clusters(self, number: int) -> Tensor:
        """The cluster of each own sample. Collective."""
        ids = self._dataset.train.sample_ids
        keys = sample_keys(ids[self._there], self._seed)
        last = np.sort(keys)[min(_CLUSTERED, len(keys)) - 1]
        some = self._own[sample_keys(ids[self._own], self._seed) <= last]
        points = torch.cat([self._points(minibatch) for minibatch in self._minibatches(some)] or [self._no_points()])
        clusters = kmeans(points, torch.from_numpy(ids[some]), number, self._world, seed=self._seed)
        found = [nearest(self._points(minibatch), clusters.centroids) for minibatch in self._minibatches(self._own)]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *(each.cpu() for each in found)])

    def _losses(self) -> Tensor:
        """The cross-entropy of each own sample, float32; infinite for a class that the network does not know."""
        assert self._network is not None
        rows_of_class = torch.tensor(self._rows_of_classes)
        found = [torch.zeros(0)]
        for minibatch in self._minibatches(self._own):
            outputs = self._network(self._inputs(minibatch)).float().cpu()
            rows = rows_of_class[minibatch["label"]]
            losses = F.cross_entropy(outputs, rows.clamp_min(0), reduction="none")
            found.append(losses.masked_fill(rows < 0, torch.inf))
        return torch.cat(found)

    def _of_all(self, own: Tensor) -> Tensor:
        """The values of all samples [n], given those of each rank's own; 0 for samples that were erased. Collective."""
        values = own.new_zeros(len(self._dataset.train))
        rows = gather_rows(torch.from_numpy(self._own), self._world)
        values[rows] = gather_rows(own, self._world)
        return values

    def _minibatches(self, rows: Int64Array) -> Iterator[Minibatch]:
        with torch.no_grad():
            for start in range(0, len(rows), _ROWS):
                yield self._dataset.train.gather(rows[start : start + _ROWS])

    def _points(self, minibatch: Minibatch) -> Tensor:
        if self._settings.features == "pixels":
            return minibatch["image"].flatten(1)
        assert self._network is not None
        return self._network.features(self._inputs(minibatch)).flatten(1).float()

    def _no_points(self) -> Tensor:
        return self._points(self._dataset.train.gather(self._there[:1]))[:0]

    def _inputs(self, minibatch: Minibatch) -> Tensor:
        return self._preprocess.evaluate(minibatch["image"].to(self._world.device))

    def _open(self, folder: Path) -> None:
        self._network = load_network(folder).to(self._world.device)
        described = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        shape = list(self._dataset.image_shape)
        if described["image_shape"] != shape:
            raise ValueError(
                f"strata.network={folder} takes samples of the shape {described['image_shape']}, and those of the data "
                f"have {shape}; choose a run on such data"
            )
        self._preprocess = Preprocess(mean=described["mean"], std=described["std"])
        outputs, classes = saved_outputs(folder), self._dataset.identity.classes
        if self._settings.prior_loss_bins is not None and outputs is None:
            raise ValueError(
                f"strata.network={folder} does not classify, so that it gives samples no loss of their own"
            )
        known = {} if outputs is None else {name: row for row, name in enumerate(outputs.names)}
        names = [classes[y] if y < len(classes) else str(y) for y in range(self._dataset.num_classes)]
        self._rows_of_classes = [known.get(name, -1) for name in names]
        if self._settings.prior_loss_bins is not None and max(self._rows_of_classes) < 0:
            raise ValueError(
                f"strata.network={folder} knows none of the classes of the data; choose a run on such data"
            )
