"""`drb train` on samples that are no images."""

from __future__ import annotations

import json
import re

from programs import ROOT, start_ranks

from drb.train import main

SMALL = ["experiment=none", "training.epochs=8", "rehearsal.capacity=30", "rehearsal.exemplars=4", "threads=1"]
OWN = """
import numpy as np
from drb.data.datasets import CachedDataset, tensor_dataset

class Waves(CachedDataset):
    def load(self, say, known_classes=()):
        return self.cached(self._make, {}, say)

    def _make(self):
        labels = np.arange(160) % 4
        waves = np.sin(np.arange(12) * (1 + labels[:, None]))[:, :, None] * [1.0, 30.0]
        return tensor_dataset((waves, labels), (waves[:40], labels[:40]), name="waves")
"""


def test_a_table_and_series_are_learnt_on_two_ranks(tmp_path):
    (tmp_path / "float_data.py").write_text((ROOT / "examples/float_data.py").read_text())
    (tmp_path / "waves.py").write_text(OWN)
    jobs = {
        "table": ["dataset=float_data.BreastCancer", "scenario.classes_per_task=1"],
        "series": ["dataset=waves.Waves", "dataset.cache=always", "dataset.root=."],
    }
    for name, chosen in jobs.items():
        arguments = [*SMALL, *chosen, "tracking=none", f"hydra.run.dir={name}"]
        ended = [ran.wait(90) for ran in start_ranks(2, arguments, tmp_path)]
        assert [each.code for each in ended] == [0, 0], ended
        assert json.loads((tmp_path / name / "summary.json").read_text())["acc"] > 0.6
    assert list((tmp_path / "drb-cache").iterdir())


def test_augmentation_of_what_is_no_image_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    chosen = ["dataset=float_data.BreastCancer", "scenario.classes_per_task=1", "augmentation=crop_flip"]
    assert main([*SMALL, *chosen, "tracking=none", "hydra.run.dir=run"]) == 1
    assert "have the shape [30]; write augmentation=none" in capsys.readouterr().err


NO_CLASSES = """
import numpy as np
from drb.data.datasets import DatasetBuilder, tensor_dataset
from drb.options import setting

class Noise(DatasetBuilder):
    first: int = setting(0)
    step: int = setting(1)

    def load(self, say, known_classes=()):
        samples, labels = np.zeros((60, 5)), np.arange(60) % 2 * self.step + self.first
        return tensor_dataset((samples, labels), (samples, labels), name="noise")
"""


def test_labels_that_are_no_classes_end_a_run_and_classes_that_are_missing_are_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "noise.py").write_text(NO_CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    job = [*SMALL, "training.epochs=1", "tracking=none", "dataset=noise.Noise", "scenario.num_tasks=1", "model=mlp"]
    assert main([*job, "dataset.first=-1", "dataset.step=2", "hydra.run.dir=refused"]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("drb: error")]
    assert "30 of the 60 training samples of noise have labels outside 0 … 1 (num_classes=2): -1; " in line
    assert main([*job, "dataset.first=1", "hydra.run.dir=told"]) == 0
    assert "no training sample of noise has the label 0 (1 of 3 classes)" in capsys.readouterr().out


def test_a_table_of_numbers_to_learn_is_learnt(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    chosen = ["dataset=float_targets.Diabetes", "objective=regression", "scenario=instance_incremental"]
    more = ["scenario.num_tasks=2", "model=mlp", "optimizer=adam", "tracking=none", "hydra.run.dir=run"]
    assert main([*SMALL, *chosen, *more]) == 0
    errors = re.findall(r"error (\d\.\d+) over all tasks so far", capsys.readouterr().out)
    assert len(errors) == 2
    assert float(errors[-1]) < 0.8  # the mean square of the targets themselves is 1
