"""How what is stored when a run ends differs from the data of all its tasks: numbers and pictures, `kept=` in a run.

The space is that of the samples as they are, if a sample has at most 1,024 numbers, else that of the evaluated
network's features; in it the principal axes of all data, at most 64 and at most a fifth as many as there are exemplars.
Beside each number is that of a uniform random subset of the same size, without which it says nothing, since all of them
grow when a set gets smaller. None of them tells how well a network learns from what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.coreset.moments import Moments, frechet_distance, gaussian_kl, label_kl, moments_of, on_axes, principal_axes
from drb.coreset.tsne import tsne
from drb.data.datasets import Concat, Dataset, erased_rows
from drb.data.scenarios import build_scenario
from drb.distributed.reduction import gather_rows, sum_over_ranks, values_of_first_rank
from drb.distributed.world import World
from drb.program.build import build_preprocess
from drb.program.config import TrainConfig
from drb.program.config.variants import build_variant
from drb.rehearsal.rehearsal import Rehearsal
from drb.seeding import sample_keys
from drb.training import Trainer
from drb.types import Float64Array, Int64Array, Minibatch

_MOST_NUMBERS = 1024  # of a sample whose pixels are compared
_MOST_AXES, _PER_AXIS = 64, 5  # exemplars per axis, at least
_SHOWN = 2000  # samples in a picture, of each kind
_ROWS = 1024


class KeptSet:
    """What all ranks store, beside the data of all tasks. Making one is collective, and so are its methods."""

    def __init__(
        self, config: TrainConfig, dataset: Dataset, trainer: Trainer, rehearsal: Rehearsal, world: World
    ) -> None:
        scenario = build_scenario(build_variant("scenario", config.scenario), dataset, seed=config.seed)
        self._source = Concat([task.train for task in scenario])
        self._input = str(getattr(config.objective, "input", "image"))
        self._label = build_variant("objective", config.objective).class_field
        self._num_classes = dataset.num_classes
        self._world, self._seed, self._rehearsal = world, config.seed, rehearsal
        self._by_network = math.prod(dataset.image_shape) > _MOST_NUMBERS
        self._network, self._preprocess = trainer.evaluated_network.eval(), build_preprocess(config, dataset)
        erased = erased_rows(self._source)
        there = np.arange(len(self._source)) if erased is None else np.flatnonzero(~erased)
        self._own = there[world.rank :: world.world_size]
        self._numbers = self._point(self._source.gather(there[:1])).shape[1]
        stored = list(self._stored())
        self._kept = torch.cat([torch.zeros(0, self._numbers), *(points for points, _ in stored)])
        self._kept_counts = sum((counts for _, counts in stored), torch.zeros(self._num_classes, dtype=torch.float64))
        (size,) = sum_over_ranks([torch.tensor([float(len(self._kept))])], world)
        self.size = int(size)
        self._random = self._of_smallest_keys(self.size)
        self._whole = self._moments(self._points(self._own))
        most = max(1, min(_MOST_AXES, self.size // _PER_AXIS))
        axes = torch.from_numpy(principal_axes(self._whole, most).copy())
        self._axes: Float64Array = values_of_first_rank(axes, world).numpy()

    def numbers(self) -> dict[str, Any]:
        """The distances of what is kept from all data, and those of a random subset of the same size."""
        if not self.size:
            return {"kept": 0}
        whole = on_axes(self._whole, self._axes, self._whole.mean)
        sets = {"": self._moments(iter([self._kept])), "random_": self._moments(self._points(self._random))}
        found: dict[str, Any] = {
            "kept": self.size,
            "space": "features" if self._by_network else "samples",
            "axes": self._axes.shape[1],
        }
        for name, moments in sets.items():
            placed = on_axes(moments, self._axes, self._whole.mean)
            found[f"{name}frechet_distance"] = frechet_distance(placed, whole)
            found[f"{name}gaussian_kl"] = gaussian_kl(placed, whole)
        if self._label is not None:
            counts = [self._kept_counts, self._counts(self._random), self._counts(self._own)]
            kept, random, everything = (each.numpy() for each in sum_over_ranks(counts, self._world))
            found |= {"label_kl": label_kl(kept, everything), "random_label_kl": label_kl(random, everything)}
        return found

    def pictures(self, folder: Path) -> list[Path]:
        """Draw kept samples over all of them, on two principal axes and by t-SNE: files on rank 0, none elsewhere."""
        some = self._of_smallest_keys(_SHOWN)
        everything = self._gathered(torch.cat([*self._points(some), torch.zeros(0, self._numbers)]))
        kept = self._gathered(self._kept)
        if not self._world.is_main or not len(kept):
            return []
        kept = kept[np.random.default_rng(self._seed).permutation(len(kept))[:_SHOWN]]  # they are rank by rank
        both = tsne(np.concatenate([everything, kept]), self._seed)
        maps = {"kept_pca": (everything[:, :2], kept[:, :2]), "kept_tsne": (both[: -len(kept)], both[-len(kept) :])}
        return [_draw(folder / f"{name}.png", *places) for name, places in maps.items() if places[0].shape[1] > 1]

    # -- samples

    def _of_smallest_keys(self, count: int) -> Int64Array:
        """This rank's part of so many samples of all ranks, which chance chose."""
        keys = sample_keys(self._source.sample_ids[self._own], self._seed + 1) >> np.uint64(1)
        everyone = gather_rows(torch.from_numpy(keys.view(np.int64)), self._world).sort().values[:count]
        return self._own[keys <= np.uint64(int(everyone[-1]))] if len(everyone) else self._own[:0]

    def _stored(self) -> Iterator[tuple[Tensor, Tensor]]:
        names = {self._input, *([] if self._label is None else [self._label])}
        with self._rehearsal.edit() as edit:
            for part in edit.stored(*names):
                yield self._point(part.fields), self._count(part.fields)

    def _points(self, rows: Int64Array) -> Iterator[Tensor]:
        for start in range(0, len(rows), _ROWS):
            yield self._point(self._source.gather(rows[start : start + _ROWS]))

    def _point(self, fields: Minibatch) -> Tensor:
        values = fields[self._input]
        if not self._by_network:
            return values.flatten(1).float() / (255 if values.dtype == torch.uint8 else 1)
        with torch.no_grad():
            inputs = self._preprocess.evaluate(values.to(self._world.device))
            features: Tensor = self._network.features(inputs)  # type: ignore[operator]
            return features.flatten(1).float().cpu()

    def _counts(self, rows: Int64Array) -> Tensor:
        counts = np.bincount(self._source.labels[rows], minlength=self._num_classes)
        return torch.from_numpy(counts.astype(np.float64))

    def _count(self, fields: Minibatch) -> Tensor:
        if self._label is None:
            return torch.zeros(self._num_classes, dtype=torch.float64)
        return torch.bincount(fields[self._label], minlength=self._num_classes).double()

    def _moments(self, parts: Iterator[Tensor]) -> Moments:
        return moments_of(parts, self._numbers, self._world)

    def _gathered(self, points: Tensor) -> Float64Array:
        """The points of all ranks on the principal axes."""
        placed = (points.double() - torch.from_numpy(self._whole.mean)) @ torch.from_numpy(self._axes)
        found: Float64Array = gather_rows(placed, self._world).numpy()
        return found


def _draw(file: Path, everything: Float64Array, kept: Float64Array) -> Path:
    from matplotlib.figure import Figure

    from drb.runs.report.plots import save

    figure = Figure(figsize=(6.0, 5.4), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(
        everything[:, 0],
        everything[:, 1],
        s=5,
        color="#b8c4d0",
        linewidths=0,
        label=f"all data ({len(everything):,} shown)",
    )
    axes.scatter(kept[:, 0], kept[:, 1], s=12, color="#c2410c", linewidths=0, label=f"kept ({len(kept):,} shown)")
    axes.set(xticks=[], yticks=[], xlabel="principal axis 1" if "pca" in file.stem else "t-SNE")
    if "pca" in file.stem:
        axes.set_ylabel("principal axis 2")
    axes.legend(loc="upper right", fontsize=8)
    return save(figure, file)
