"""Variants of one's own: one of each kind, as small as they can be.

Put this file where Python finds it (a package, or a folder on PYTHONPATH) and name the classes on the command line:

    python -m drb.train dataset=my_variants.Stripes scenario=my_variants.Chunks scenario.num_tasks=3 \
        model=my_variants.Linear strategy=my_variants.Doubled 'terms=[my_variants.Shrink]' terms.Shrink.strength=0.001 \
        optimizer=my_variants.RmsProp schedule=my_variants.Fading schedule.decay=0.999 \
        rehearsal.admission=my_variants.FirstCome rehearsal.admission_options.every=2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drb.buffer.admission import Admission, Columns, Decision, Gathered, Offer, Removal, State, fill_holes, slots_for
from drb.data.datasets import Dataset, DatasetBuilder, View, tensor_dataset
from drb.data.scenarios import Scenario, Task
from drb.exchange import CollectiveExchange, Exchange, Peers, Sizes, Transport
from drb.options import required, setting
from drb.sampling.proportions import Proportions
from drb.tracking import NullTracker, Tracker, TrackerBuilder
from drb.training.method.batch import Batch
from drb.training.method.needs import Needs
from drb.training.method.parameters import Gradient, Weights
from drb.training.models import GrowingHead, Model, Network
from drb.training.objectives import Classification
from drb.training.optimizers import OptimizerBuilder
from drb.training.schedules import Schedule
from drb.training.strategies import Strategy
from drb.training.terms import Term
from drb.types import Float64Array, Int64Array, Minibatch

# -- what is rehearsed


class FirstCome(Admission):
    """Keep the first samples and never replace one; of the ids only every `every`-th is considered."""

    every: int = setting(1, at_least=1)

    def admit(self, columns: Columns, offer: Offer) -> Decision:
        wanted = columns.is_new(offer.sample_id) & (offer.sample_id % self.every == 0)
        rows = np.flatnonzero(wanted)[: columns.capacity - columns.size]
        return Decision(rows, slots_for(columns, len(rows), np.empty(0, np.int64)))

    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        return fill_holes(columns.size, slots)

    def reshard(
        self, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
    ) -> tuple[Int64Array, State]:
        return np.argsort(gathered.admitted_round, kind="stable")[:capacity], {}


class Tempered(Proportions):
    """Draw a stratum in proportion to its count to the power of `power`: 1 is uniform, 0 balanced."""

    needs_strata = True
    power: float = required(at_least=0, at_most=1)

    def groups(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]:
        return np.ascontiguousarray(counts_WS.T), counts_WS.sum(axis=0) ** self.power


class Plain(Transport):
    """Rows by torch.distributed, whatever the nodes."""

    def open(self, peers: Peers, nodes: Sequence[str], sizes: Sizes) -> Exchange:
        return CollectiveExchange(peers, nodes, int(sizes.rows[peers.rank]), sizes.words, sizes.at_once)


# -- how it is learnt


class Doubled(Strategy):
    """Experience replay in which exemplars count `weight` times as much as new samples."""

    weight: float = setting(2.0, above=0)

    def needs(self) -> Needs:
        return Needs(exemplars="joined")

    def loss(self, batch: Batch) -> Tensor:
        rows = batch.row_losses(batch.outputs())
        return batch.mean(rows, batch.new) + self.weight * batch.mean(rows, batch.exemplars)


class Shrink(Term):
    """Weight decay written as a term: a gradient of `strength` times the weights."""

    strength: float = setting(0.01, at_least=0)

    def penalise(self, weights: Weights, gradient: Gradient) -> None:
        gradient.add_(weights * self.strength)


class Sharper(Classification):
    """Classification whose outputs are divided by `temperature` in the loss."""

    temperature: float = setting(1.0, above=0)

    def row_losses(self, outputs: Any, batch: Minibatch) -> Tensor:
        return super().row_losses(outputs / self.temperature, batch)


class RmsProp(OptimizerBuilder):
    """torch's RMSprop."""

    lr: float = setting(0.001, above=0)
    alpha: float = setting(0.99, at_least=0, below=1)

    def build(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr=lr, alpha=self.alpha, weight_decay=self.weight_decay)


class Fading(Schedule):
    """Multiply the learning rate by `decay` at every step. Where it is, is saved with the run."""

    decay: float = setting(0.999, above=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.current = 1.0

    def factor(self, epochs: float, epochs_per_task: float) -> float:
        self.current *= self.decay
        return self.current


# -- what is learnt, and by what


class Stripes(DatasetBuilder):
    """Images of 8x8 whose class is the row of a bright stripe."""

    per_class: int = setting(40, at_least=2)
    noise: float = setting(0.3, at_least=0, below=1)

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        generator = np.random.default_rng(0)
        labels = np.arange(8).repeat(self.per_class)
        images = generator.integers(0, 1 + int(255 * self.noise), (len(labels), 1, 8, 8), dtype=np.uint8)
        images[np.arange(len(labels)), 0, labels] = 255
        samples = torch.from_numpy(images), torch.from_numpy(labels)
        return tensor_dataset(samples, samples, num_classes=8, name="stripes")


class Chunks(Scenario):
    """Consecutive chunks of the training data."""

    num_tasks: int = required(at_least=1)

    def __iter__(self) -> Iterator[Task]:
        for index, chunk in enumerate(np.array_split(np.arange(len(self.dataset.train)), self.num_tasks)):
            labels = np.unique(self.dataset.train.labels[chunk]).tolist()
            test = np.flatnonzero(np.isin(self.dataset.test.labels, labels))
            yield Task(
                index=index,
                name=f"chunk {index}",
                train=View(self.dataset.train, chunk),
                test=View(self.dataset.test, test),
                validation=None,
                classes=tuple(labels),
            )


class Linear(Model):
    """One linear layer, after `width` features if it is not 0."""

    width: int = setting(0, at_least=0)

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        num_features = math.prod(image_shape)
        body = [nn.Flatten()]
        if self.width:
            body += [nn.Linear(num_features, self.width), nn.ReLU()]
        return Network(nn.Sequential(*body), GrowingHead(self.width or num_features, num_classes, seed=seed))


class Lines(TrackerBuilder):
    """Each metric as a line of a text file in the run directory."""

    file: str = "metrics.txt"

    def open(self, experiment: str, run_name: str, run_dir: Path, run_id: str | None) -> Tracker:
        return _LineTracker(run_dir / self.file)


class _LineTracker(NullTracker):
    def __init__(self, path: Path) -> None:
        self._path = path

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        with self._path.open("a") as file:
            file.writelines(f"{step} {name} {value}\n" for name, value in metrics.items())
