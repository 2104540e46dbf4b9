"""The bare loop that drb is compared with: Fashion-MNIST online, without a framework.

Tasks {0,1} ... {8,9} once through, one 10-way head, x / 255, MLP 784-100-100-10 (Xavier), plain SGD, minibatches of 10
plus 10 exemplars from a reservoir of 500. Tensors in memory, the reservoir (Vitter's algorithm R) in numpy. The lag is
drb's: the exemplars of step t come from a buffer that holds the minibatches up to t-2.

    python benchmarks/plain_loop.py --seed 0

prints JSON: accuracy, cpu_seconds (this process, training loop only), samples_per_cpu_second.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drb.data.datasets import load_dataset

BATCH, EXEMPLARS, CAPACITY, RATE = 10, 10, 500, 0.1


class Reservoir:
    """Algorithm R: after n samples each is stored with probability CAPACITY / n."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._images = np.empty((CAPACITY, 784), np.uint8)
        self._labels = np.empty(CAPACITY, np.int64)
        self._seen = 0

    def add(self, images: Tensor, labels: Tensor) -> None:
        slots = np.arange(self._seen, self._seen + len(labels))
        late = slots >= CAPACITY
        slots[late] = self._rng.integers(0, slots[late] + 1)
        kept = slots < CAPACITY
        if kept.any():
            self._images[slots[kept]] = images.numpy()[kept]
            self._labels[slots[kept]] = labels.numpy()[kept]
        self._seen += len(labels)

    def draw(self) -> tuple[Tensor, Tensor] | None:
        stored = min(self._seen, CAPACITY)
        if stored == 0:
            return None
        chosen = self._rng.choice(stored, min(EXEMPLARS, stored), replace=False)
        return torch.from_numpy(self._images[chosen]), torch.from_numpy(self._labels[chosen])


def build_network() -> nn.Module:
    network = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def train(images: Tensor, labels: Tensor, seed: int) -> tuple[nn.Module, float]:
    """The trained network and the CPU seconds of the loop. images: uint8 [n, 784]; labels: int64 [n]."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network, reservoir = build_network(), Reservoir(rng)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    exemplars, waiting = None, None
    started = time.process_time()
    for task in range(5):
        order = torch.from_numpy(rng.permutation(np.flatnonzero(labels.numpy() // 2 == task)))
        for rows in order.split(BATCH):
            x, y = images[rows], labels[rows]
            offered = (x, y)
            if exemplars is not None:
                x, y = torch.cat([x, exemplars[0]]), torch.cat([y, exemplars[1]])
            loss = F.cross_entropy(network(x.float().div_(255)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if waiting is not None:
                reservoir.add(*waiting)
            exemplars, waiting = reservoir.draw(), offered
    return network, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", default="data", help="where Fashion-MNIST is, or is downloaded to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset("fashion_mnist", arguments.root)
    every = np.arange(len(dataset.train)), np.arange(len(dataset.test))
    train_set, test_set = dataset.train.gather(every[0]), dataset.test.gather(every[1])
    network, seconds = train(train_set["image"].flatten(1), train_set["label"], arguments.seed)
    with torch.inference_mode():
        predicted = network(test_set["image"].flatten(1).float().div_(255)).argmax(1)
    print(
        json.dumps(
            {
                "accuracy": (predicted == test_set["label"]).double().mean().item(),
                "cpu_seconds": seconds,
                "samples_per_cpu_second": len(dataset.train) / seconds,
                "seed": arguments.seed,
            }
        )
    )


if __name__ == "__main__":
    main()
