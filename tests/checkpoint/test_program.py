"""The program: stopped by a signal, started again by the same command."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from programs import start_ranks
from ranks import collect_ranks

import drb.program.run
from drb.checkpoint import Checkpointer, CheckpointError
from drb.distributed.world import World
from drb.program.config import TrainConfig, compose_config
from drb.tracking.buffered import BufferedTracker
from drb.tracking.store import connect
from drb.training import Monitor

SETTINGS = [
    "experiment=digits",
    "tracking=none",
    "training.epochs=6",
    "training.log_every=7",
    "optimizer.momentum=0.9",
]


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def test_two_ranks_are_stopped_by_a_signal_to_one_and_go_on(tmp_path):
    reference = start_ranks(2, [*SETTINGS, "hydra.run.dir=never", "checkpoint=none"], tmp_path)
    interrupted = start_ranks(2, [*SETTINGS, "hydra.run.dir=out"], tmp_path)
    interrupted[0].wait_for("after task 1")
    interrupted[1].signal(signal.SIGUSR2)
    ended = [rank.wait() for rank in interrupted]
    marker = json.loads((tmp_path / "out/INTERRUPTED").read_text())
    assert marker["signal"] == "SIGUSR2"
    assert [rank.code for rank in ended] == [os.EX_TEMPFAIL] * 2, ended
    assert f"interrupted by SIGUSR2 after {marker['step']} steps" in ended[0].out
    assert (tmp_path / "out" / marker["checkpoint"] / "manifest.json").exists()
    assert not (tmp_path / "out/summary.json").exists()

    resumed = [rank.wait() for rank in start_ranks(2, [*SETTINGS, "hydra.run.dir=out"], tmp_path)]
    assert [rank.code for rank in resumed] == [0, 0], resumed
    assert f"{marker['step']} steps done" in resumed[0].out
    assert [rank.wait().code for rank in reference] == [0, 0]
    never, went_on = summary(tmp_path / "never"), summary(tmp_path / "out")
    assert not (tmp_path / "out/INTERRUPTED").exists()
    for key in ("accuracy_matrix", "loss_matrix", "baselines", "samples", "steps"):
        assert never[key] == went_on[key], key
    assert [entry["counts"] for entry in never["history"]] == [entry["counts"] for entry in went_on["history"]]
    assert never["rehearsal"]["rounds"] == went_on["rehearsal"]["rounds"]


def config_of(folder: Path, *arguments: str) -> tuple[TrainConfig, Path]:
    tiny = ["scenario.num_tasks=2", "training.epochs=2", "dataset.test_fraction=0.5", "rehearsal.asynchronous=false"]
    config, _ = compose_config([*SETTINGS, *tiny, *arguments], "id")
    return config, folder / "run"


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process gets SIGTERM once a run has shown so many minibatches."""
    shown = [0]
    advance = Monitor.advance

    def counting(self: Monitor, minibatches: int) -> None:
        advance(self, minibatches)
        shown[0] += minibatches
        if shown[0] == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Monitor, "advance", counting)


def run_until_killed(rank: int, world_size: int, arguments: list[str], run_dir: str, steps: int) -> None:
    """SIGKILL after so many steps, of which the tracker has all and the last checkpoint has not."""
    trackers: list[BufferedTracker] = []
    log_metrics, advance = BufferedTracker.log_metrics, Monitor.advance
    done = [0]

    def logging(self: BufferedTracker, metrics: dict[str, float], step: int) -> None:
        log_metrics(self, metrics, step)
        trackers.append(self)

    def counting(self: Monitor, minibatches: int) -> None:
        done[0] += minibatches
        advance(self, minibatches)
        if done[0] == steps:
            trackers[-1].flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def visiting(self: Checkpointer, step: int, state: Any) -> None:
        visit(self, step, state)
        self.finish()  # whether the checkpoint is complete when the end comes must not depend on luck

    visit, Checkpointer.visit = Checkpointer.visit, visiting  # type: ignore[method-assign]
    BufferedTracker.log_metrics, Monitor.advance = logging, counting  # type: ignore[assignment,method-assign]
    config, _ = config_of(Path(run_dir).parent, *arguments)
    drb.program.run.run(config, Path(run_dir), World())


def history(uri: str) -> dict[str, list[tuple[int, float]]]:
    """Of the one run in a store: (step, value) of every metric that does not depend on time."""
    client = connect(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "drb"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    names = [n for n in run.data.metrics if not any(w in n for w in ("second", "time", "breakdown"))]
    return {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in names}


@pytest.mark.timeout(300)
def test_mlflow_shows_one_run_without_gap_or_repetition_over_interruptions(tmp_path, monkeypatch):
    uris = {name: f"sqlite:///{tmp_path}/{name}.db" for name in ("never", "out")}
    connect(uris["never"])
    shutil.copy(tmp_path / "never.db", tmp_path / "out.db")  # making the tables takes seconds
    tracked = ["tracking=mlflow", "tracking.plots=false"]
    config, _ = config_of(tmp_path, *tracked, f"tracking.uri={uris['never']}", "checkpoint=none")
    drb.program.run.run(config, tmp_path / "never", World())
    out = [*tracked, f"tracking.uri={uris['out']}"]
    config, run_dir = config_of(tmp_path, *out, "checkpoint.every_steps=5")
    for arguments in (out, [*out, "checkpoint.every_steps=5"]):  # the first leaves no checkpoint
        _, failures = collect_ranks(run_until_killed, 1, arguments, str(run_dir), 8, timeout=100)
        assert "exit code -9" in failures[0]
    for steps in (12, 20):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
            stop_after(steps, patch)
            drb.program.run.run(config, run_dir, World())
        assert stop.value.code == os.EX_TEMPFAIL
    drb.program.run.run(config, run_dir, World())
    expected, found = history(uris["never"]), history(uris["out"])
    assert found == expected
    assert len(expected["train/loss"]) > 5


def test_a_finished_run_is_not_repeated_and_another_one_not_mistaken_for_it(tmp_path, capsys):
    config, run_dir = config_of(tmp_path)
    drb.program.run.run(config, run_dir, World())
    written = (run_dir / "summary.json").stat().st_mtime_ns
    capsys.readouterr()
    drb.program.run.run(config, run_dir, World())
    assert "this run is finished" in capsys.readouterr().out
    assert (run_dir / "summary.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"summary.json was made with seed=0, this run has 7; go on with the same"):
        drb.program.run.run(dataclasses.replace(config, seed=7), run_dir, World())


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("seed=1", "seed=0, this run has 1"),
        ("training.batch_size=8", "training.batch_size=16, this run has 8"),
        ("optimizer.momentum=0.5", "optimizer.momentum=0.9, this run has 0.5"),
        ("model=cnn", "model.name=mlp, this run has cnn"),
        ("rehearsal.capacity=100", "rehearsal.capacity=200, this run has 100"),
        ("scenario.class_order=shuffled", "scenario.class_order=natural, this run has shuffled"),
        ("dataset.seed=2", "dataset.seed=0, this run has 2"),
    ],
)
def test_what_decides_the_result_must_be_as_it_was(interrupted, argument, key):
    config, run_dir = config_of(interrupted, argument)
    with pytest.raises(ValueError, match=rf"step-\d+ was made with {key}; go on with the same"):
        drb.program.run.run(config, run_dir, World())


def test_a_damaged_checkpoint_is_said_and_one_without_any_good_is_an_error(interrupted):
    config, run_dir = config_of(interrupted)
    next(run_dir.glob("checkpoints/*/model.safetensors")).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model.safetensors has 0 bytes"):
        drb.program.run.run(config, run_dir, World())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after 5 steps."""
    folder = tmp_path_factory.mktemp("stopped")
    config, run_dir = config_of(folder)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        stop_after(5, patch)
        drb.program.run.run(config, run_dir, World())
    return folder


@pytest.fixture
def interrupted(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return tmp_path
