"""How what is stored when a run ends differs from the data: `kept=`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from programs import TINY, start_ranks

from drb.coreset.moments import frechet_distance, gaussian_kl, moments_of, on_axes, principal_axes
from drb.data.datasets import load_dataset
from drb.distributed.world import World
from drb.train import main

SMALL = [*TINY, "checkpoint.enabled=false"]


def test_pictures_and_distances_of_the_stored_samples(tmp_path, monkeypatch):
    import drb.program.kept as module

    monkeypatch.setattr(module, "_SHOWN", 60)
    stored = {}
    numbers = module.KeptSet.numbers

    def watched(self):
        stored["images"] = (self._kept, self._source.sample_ids[self._random])
        return numbers(self)

    monkeypatch.setattr(module.KeptSet, "numbers", watched)
    options = ["kept=pictures", "rehearsal.capacity=100", f"hydra.run.dir={tmp_path}/run"]
    assert main([*SMALL, *options]) == 0
    kept = json.loads((tmp_path / "run/summary.json").read_text())["kept"]
    assert {"kept_pca.png", "kept_tsne.png"} <= {file.name for file in (tmp_path / "run").iterdir()}
    data, alone = load_dataset("digits").train, World()
    images = data.gather(np.flatnonzero(data.labels < 2))["image"].flatten(1).double() / 255
    whole = moments_of([images], 64, alone)
    axes = principal_axes(whole, 20)
    assert (kept["kept"], kept["axes"], kept["space"]) == (100, 20, "samples")
    for name, rows in (
        ("", stored["images"][0]),
        ("random_", data.gather(stored["images"][1])["image"].flatten(1).double() / 255),
    ):
        placed = [on_axes(moments, axes, whole.mean) for moments in (moments_of([rows], 64, alone), whole)]
        assert kept[f"{name}frechet_distance"] == pytest.approx(frechet_distance(*placed), rel=1e-4)
        assert kept[f"{name}gaussian_kl"] == pytest.approx(gaussian_kl(*placed), rel=1e-4)
    assert 0 < kept["label_kl"] < 0.1


def test_all_that_there_is_does_not_differ_on_two_ranks(tmp_path):
    options = ["kept=numbers", "rehearsal.capacity=2000", f"hydra.run.dir={tmp_path}/run"]
    ended = [ran.wait(90) for ran in start_ranks(2, [*SMALL, *options], tmp_path)]
    assert [each.code for each in ended] == [0, 0], ended
    kept = json.loads((tmp_path / "run/summary.json").read_text())["kept"]
    assert kept["kept"] == (load_dataset("digits").train.labels < 2).sum()
    for name in ("frechet_distance", "gaussian_kl", "label_kl"):
        assert kept[name] == pytest.approx(0, abs=1e-4)
        assert kept[f"random_{name}"] == pytest.approx(0, abs=1e-4)
