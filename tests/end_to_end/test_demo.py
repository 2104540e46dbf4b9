"""The main job, as `make demo` runs it: three strategies on two ranks under torchrun, on real images."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from programs import start_ranks, visible
from warm_python import warm_python

from drb.demo import main

REAL_RUN = subprocess.run
ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "accuracy_matrix", "acc", "bwt", "fwt", "forgetting", "top5", "train_seconds", "train_cpu_seconds",
    "samples_per_second", "world_size", "seed", "rehearsal", "config", "task_names", "history", "strategy", "name",
    "fwt_masked", "versions", "command",
}  # fmt: skip
REHEARSAL_KEYS = {
    "exemplars", "capacity_total", "stored_total", "distinct_total", "bytes_per_rank", "extend_seconds",
    "wait_seconds", "inline_seconds", "round_seconds", "worker_cpu_seconds",
}  # fmt: skip


def run_mostly_forked(command, env):
    """The first run as it is, under torchrun; the others, whose commands differ in the strategy, are forked."""
    if "strategy=finetune" in command:
        return REAL_RUN(command, env=env)
    ended = [rank.wait() for rank in start_ranks(2, command[command.index("drb.train") + 1 :], Path.cwd())]
    return subprocess.CompletedProcess(command, max(rank.code for rank in ended))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Its folder and the three summaries by strategy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PYTHON_EXEC", warm_python())
        patch.setattr(subprocess, "run", run_mostly_forked)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert main(["tracking=none", "training.epochs=2"]) == 0
        [folder] = Path("runs").resolve().iterdir()
        left = sorted(os.listdir())
    summaries = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/summary.json")}
    assert {summary["name"].replace(" ", "-") for summary in summaries.values()} == set(summaries)
    summaries = {summary["strategy"]: summary for summary in summaries.values()}
    return folder, summaries, left


def test_rehearsal_lies_far_above_plain_training_and_below_retraining(demo):
    _, summaries, _ = demo
    lower, kept, upper = (summaries[name]["acc"] for name in ("finetune", "er", "from_scratch"))
    assert lower < 0.25
    assert kept > lower + 0.5
    assert upper > kept - 0.02
    assert summaries["finetune"]["forgetting"] > 0.9
    assert summaries["er"]["forgetting"] < 0.3


def test_summaries_have_every_key(demo):
    _, summaries, _ = demo
    for summary in summaries.values():
        assert summary.keys() >= KEYS
        assert summary["world_size"] == 2
        assert [len(row) for row in summary["accuracy_matrix"]] == [5] * 5
        assert summary["train_cpu_seconds"] > 0
        assert len(summary["history"]) == len(summary["task_names"]) == 5
    assert summaries["finetune"]["rehearsal"] is None
    rehearsal = summaries["er"]["rehearsal"]
    assert rehearsal.keys() >= REHEARSAL_KEYS
    assert (rehearsal["exemplars"], rehearsal["capacity_total"]) == (8, 200)
    assert rehearsal["stored_total"] == rehearsal["distinct_total"] == 200
    assert summaries["er"]["history"][-1]["counts"].keys() == {str(label) for label in range(10)}


def test_all_ranks_share_one_run_directory(demo):
    folder, _, left = demo
    assert left == ["runs"]
    assert visible(folder / "rehearsal") == [
        "checkpoints",
        "config.yaml",
        "ledger",
        "model.json",
        "model.safetensors",
        "summary.json",
    ]


def test_plots_of_the_three_runs_are_drawn(demo):
    folder, _, _ = demo
    assert {path.name for path in folder.glob("*.png")} >= {"accuracy_runtime.png", "accuracy_matrix.png"}
