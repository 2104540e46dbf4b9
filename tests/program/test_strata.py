"""Groups of samples that are found before training: clusters, and bins of the loss under an earlier network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import TINY
from ranks import run_ranks
from torch.nn import functional as F

from drb.data.datasets import Dataset, load_dataset
from drb.distributed.world import World
from drb.program.strata import StrataSettings, with_strata
from drb.train import main
from drb.training.models.saved import load_network


def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on two classes of the digits, whose inputs are not normalised."""
    folder = tmp_path_factory.mktemp("base") / "run"
    options = ["augmentation.normalise=false", "checkpoint.enabled=false", f"hydra.run.dir={folder}"]
    assert main([*TINY, *options]) == 0
    return folder


def found(rank: int, world_size: int, network: str) -> dict[str, np.ndarray]:
    settings = StrataSettings(clusters=5, prior_loss_bins=3, network=network, features="network")
    world = World(rank, world_size)
    columns = with_strata(digits(), settings, world, 3).train.gather(np.arange(len(digits().train)))
    pixels = with_strata(digits(), StrataSettings(clusters=6), world, 3)
    assert "strata/cluster" in pixels.identity.parts
    return {"pixels": pixels.train.columns["cluster"].numpy()} | {
        name: columns[name].numpy() for name in ("cluster", "prior_loss")
    }


def test_groups_are_alike_on_any_number_of_ranks_and_bins_are_quantiles_of_the_loss(base):
    (alone,), both = run_ranks(found, 1, str(base)), run_ranks(found, 2, str(base))
    for result in both:
        np.testing.assert_array_equal(result["pixels"], alone["pixels"])
        for name in ("cluster", "prior_loss"):
            np.testing.assert_array_equal(result[name], both[0][name])
            assert (result[name] == alone[name]).mean() > 0.99  # a network's outputs depend on the batch, in rounding
    assert len(np.unique(alone["pixels"])) == 6
    data = digits().train
    images, labels = data.gather(np.arange(len(data)))["image"].float() / 255, torch.from_numpy(data.labels)
    known = labels < 2  # the base was trained on two classes
    losses = np.full(len(labels), np.inf)
    with torch.no_grad():
        losses[known] = F.cross_entropy(load_network(base)(images[known]), labels[known], reduction="none")
    ranks = np.argsort(np.argsort(losses, kind="stable"))
    assert (ranks * 3 // len(ranks) == alone["prior_loss"]).mean() > 0.99
    assert np.bincount(alone["prior_loss"]).min() >= len(data) // 3


def test_exemplars_are_counted_by_a_group_and_a_run_goes_on_only_with_the_same(base, tmp_path, capsys):
    options = ["strata.clusters=3", "rehearsal.stratum=cluster", "rehearsal.admission=class_balanced"]
    options += ["rehearsal.capacity=30", f"hydra.run.dir={tmp_path / 'run'}", "training.log_every=1000"]
    assert main([*TINY, *options]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["acc"] > 0.3
    capsys.readouterr()
    assert main([*TINY, *options, "training.epochs=2", "strata.clusters=4"]) == 1
    assert "was made with strata.clusters=3, this run has 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["strata.prior_loss_bins=3"], "need strata.network=DIR"),
        (["strata.network=somewhere"], "is used by nothing"),
        (["strata.clusters=3", "rehearsal.stratum=prior_loss"], "there is no such field, .* have .*cluster"),
        (["strata.clusters=2", "strata.features=network", "strata.network=nowhere"], "holds no trained network"),
    ],
)
def test_what_is_missing_is_said_in_one_line(options, message, tmp_path, capsys):
    assert main([*TINY, *options, f"hydra.run.dir={tmp_path}/run"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
