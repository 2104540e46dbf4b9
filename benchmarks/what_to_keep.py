"""What to keep: a network is trained anew on the exemplars that a policy kept of Split Fashion-MNIST.

Five tasks of two classes go through `drb.training` once, on one rank; the policy chooses as ever. Then an MLP
784-100-100-10 is trained on what is stored in the end, 800 steps of Adam on 100 rows, and tested on the 10,000 test
images: in `weighted` each row counts as many samples as it stands for. Beside it the distances that
`drb.coreset.moments` describes a subset by, in 64 principal axes of the pixels, and those of uniform random subsets of
the same size.

    python -m benchmarks.what_to_keep                       all policies, 5 seeds
    python -m benchmarks.what_to_keep random clusters --sizes 100 --seeds 0 1
    python -m benchmarks.what_to_keep --table               of benchmarks/results/what_to_keep.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import record
from drb import Field, Rehearsal
from drb.coreset.moments import Moments, frechet_distance, gaussian_kl, moments_of, on_axes, principal_axes
from drb.data.datasets import Dataset, load_dataset
from drb.data.scenarios import build_scenario
from drb.distributed.world import World
from drb.training import Constant, Sgd, Trainer, TrainingSettings
from drb.training.augment import Preprocess
from drb.training.method.method import Method
from drb.training.models import Network, build_model
from drb.training.strategies import STRATEGIES
from drb.training.terms import TERMS

FILE = Path(__file__).parent / "results" / "what_to_keep.json"
ALONE, SHAPE = World(), (1, 28, 28)
STEPS, ROWS, RATE, AXES = 800, 100, 1e-3, 64
POLICIES: dict[str, dict[str, Any]] = {
    "random": {"term": "task_end_storage"},
    "mean_matching": {"admission": "mean_matching"},
    "clusters": {"term": "cluster_storage", "steps": 10},
    "clusters of features": {"term": "cluster_storage", "steps": 10, "features": "network"},
    "inducing points": {"term": "cluster_storage", "inducing_points": 10},
    "inducing points, all classes at once": {"term": "cluster_storage", "inducing_points": 10, "tasks": 1},
    "noise 4": {"term": "cluster_storage", "noise": 4.0, "steps": 4},
    "noise 16": {"term": "cluster_storage", "noise": 16.0, "steps": 4},
    "density": {"term": "density_storage"},
    "density, no outliers left out": {"term": "density_storage", "outliers": 0.0},
}
AT_MOST = dict.fromkeys([name for name in POLICIES if name.startswith("inducing points")], 100)  # exemplars


def kept_by(policy: str, data: Dataset, capacity: int, seed: int) -> dict[str, Tensor]:
    """What a policy has stored after the stream: image, label and, where it is stored, mass."""
    options = dict(POLICIES[policy])
    name, admission, tasks = options.pop("term", None), options.pop("admission", "closed"), options.pop("tasks", 5)
    terms = [] if name is None else [TERMS.build(name, options)]
    strategy = STRATEGIES.build("er")
    late = {key: field.declared(10) for key, field in Method(strategy, terms).needs.late.items()}
    spec = {"image": Field(torch.uint8, SHAPE), "label": Field(torch.int64), **late} if late else None
    with Rehearsal(capacity, 64, admission=admission, spec=spec, seed=seed, batch_size=256, verbose=False) as rehearsal:
        Trainer(
            build_scenario("class_incremental", data, seed=seed, num_tasks=tasks),
            lambda classes, task: network_of(classes, seed + task),
            Preprocess(mean=[0.0], std=[1.0]),
            strategy,
            terms=terms,
            world=ALONE,
            training=TrainingSettings(batch_size=256),
            optimizer=Sgd(lr=0.1),
            schedule=Constant(),
            rehearsal=rehearsal,
            seed=seed,
        ).run()
        with rehearsal.edit() as edit:
            parts = [stored.fields for stored in edit.stored("image", "label", *late)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def network_of(classes: int, seed: int) -> Network:
    return build_model("mlp", SHAPE, classes, seed=seed, hidden=[100, 100])


def accuracy_after(kept: dict[str, Tensor], data: Dataset, seed: int, *, weighted: bool) -> float:
    """The test accuracy of a network that was trained on the kept samples alone, in percent."""
    images, labels = kept["image"].float() / 255, kept["label"]
    mass = kept["mass"][:, 0] if weighted else torch.ones(len(labels))
    weights = mass / torch.zeros(10).index_add_(0, labels, mass).div_(torch.bincount(labels, minlength=10))[labels]
    torch.manual_seed(seed)
    network = network_of(10, seed)
    optimizer, rng = torch.optim.Adam(network.parameters(), RATE), torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randperm(len(labels), generator=rng)[:ROWS]
        loss = (F.cross_entropy(network(images[rows]), labels[rows], reduction="none") * weights[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = data.test.gather(np.arange(len(data.test)))
    with torch.no_grad():
        return 100 * float((network(test["image"].float() / 255).argmax(1) == test["label"]).float().mean())


class Distances:
    """How a subset differs from the whole, in the whole's principal axes."""

    def __init__(self, data: Dataset) -> None:
        self._images = data.train.gather(np.arange(len(data.train)))["image"].flatten(1)
        moments = moments_of((part / 255 for part in torch.split(self._images, 4096)), 784, ALONE)
        self._centre, self._axes = moments.mean, principal_axes(moments, AXES)
        self._whole = on_axes(moments, self._axes, self._centre)

    def of(self, images: Tensor) -> tuple[float, float]:
        """The Fréchet distance and the Kullback-Leibler divergence."""
        rows = (images.flatten(1).double() / 255 - torch.from_numpy(self._centre)) @ torch.from_numpy(self._axes.copy())
        subset: Moments = moments_of([rows], AXES, ALONE)
        return frechet_distance(subset, self._whole), gaussian_kl(subset, self._whole)

    def of_random(self, size: int, seed: int) -> tuple[float, float]:
        rows = torch.randperm(len(self._images), generator=torch.Generator().manual_seed(seed))[:size]
        return self.of(self._images[rows])


def run(policies: list[str], sizes: list[int], seeds: list[int]) -> None:
    """Add what is not known yet to the results, one seed after the other."""
    known = runs_so_far()
    data = load_dataset("fashion_mnist")
    distances = Distances(data)
    for seed in seeds:
        for size in sizes:
            for policy in policies:
                key = {"policy": policy, "size": size, "seed": seed}
                if size > AT_MOST.get(policy, size) or any(key.items() <= each.items() for each in known):
                    continue
                start = time.perf_counter()
                kept = kept_by(policy, data, size, seed)
                found = {**key, "kept": len(kept["label"]), "seconds": round(time.perf_counter() - start, 1)}
                for name in ("plain", "weighted") if "mass" in kept else ("plain",):
                    found[name] = round(accuracy_after(kept, data, seed, weighted=name == "weighted"), 2)
                found["frechet"], found["kl"] = (round(each, 4) for each in distances.of(kept["image"]))
                found["random_frechet"], found["random_kl"] = (
                    round(each, 4) for each in distances.of_random(found["kept"], seed)
                )
                known.append(found)
                record.save("what_to_keep", {"runs": known}, adds=True)


def runs_so_far() -> list[dict[str, Any]]:
    known: list[dict[str, Any]] = json.loads(FILE.read_text())["figures"]["runs"] if FILE.exists() else []
    return known


def table() -> str:
    """A row for each policy: accuracies of all sizes (mean ± standard error), and distances at the largest."""
    runs = runs_so_far()
    sizes = sorted({each["size"] for each in runs})
    lines = ["| kept by | rows count | " + " | ".join(f"{size} kept" for size in sizes) + " | Fréchet distance |"]
    lines.append("|---" * (len(sizes) + 3) + "|")
    for policy in POLICIES:
        for rows in ("plain", "weighted"):
            of = [[r for r in runs if r["policy"] == policy and r["size"] == s and rows in r] for s in sizes]
            if any(of):
                cells = [_mean([r[rows] for r in each]) if each else "-" for each in of]
                last = next(each for each in reversed(of) if each)
                far = " / ".join(f"{statistics.mean(r[k] for r in last):.3f}" for k in ("frechet", "random_frechet"))
                counted = "alike" if rows == "plain" else "by mass"
                lines.append(f"| {policy} | {counted} | {' | '.join(cells)} | {far} |")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.1f} ± {error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="*", help="all if none is named")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 500, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.policies} - POLICIES.keys()):
        parser.error(f"there is no policy {unknown[0]!r}; choose from {', '.join(POLICIES)}")
    if not arguments.table:
        run(arguments.policies or list(POLICIES), arguments.sizes, arguments.seeds)
    print(table())


if __name__ == "__main__":
    main()
