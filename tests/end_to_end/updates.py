"""Files of samples, and updates of one lineage with them."""

from __future__ import annotations

import os

import numpy as np

from drb.runs.lineage.record import read_lineage
from drb.update import main

FAST = ["model=mlp", "model.hidden=[16]", "training.epochs=6", "training.batch_size=8", "training.batch_scope=total"]
FAST += ["optimizer.lr=0.1", "rehearsal.capacity=60", "rehearsal.capacity_scope=total", "rehearsal.exemplars=8"]
FAST += ["rehearsal.exemplars_scope=total", "checkpoint.every_steps=10", "tracking.plots=false", "threads=1"]


def day(folder, number, classes, shift=0.0, count=60):
    """A file of samples around a point for each class, with test samples of their own."""
    rng = np.random.default_rng(number)
    content = {}
    for prefix, rows in (("", count), ("test_", 40)):
        labels = np.resize(classes, rows)
        centres = np.random.default_rng(0).normal(size=(10, 12)) * 2
        samples = centres[labels] + shift + 0.4 * rng.normal(size=(rows, 12))
        content |= {f"{prefix}image": samples.astype(np.float32), f"{prefix}label": labels}
    path = folder / f"day{number}.npz"
    np.savez(path, **content)
    return path


class Days:
    """Updates of one lineage."""

    def __init__(self, folder, *settings):
        self.folder, self.state, self.settings = folder, folder / "state", [*FAST, *settings]

    def update(self, data, *options):
        return main(["--state", str(self.state), "--data", str(data), *options, *self.settings])

    @property
    def lineage(self):
        return read_lineage(self.state)

    @property
    def current(self):
        return os.readlink(self.state / "current")
