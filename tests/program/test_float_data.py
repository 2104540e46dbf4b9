"""`drb train` on samples that are no images."""

from __future__ import annotations

import json

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
