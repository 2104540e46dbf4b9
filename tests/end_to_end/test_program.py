"""The program as a process: one rank, being told to stop, and what a tracker is told of a failure."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import signal
import sys

import pytest
from programs import ROOT, TORCHRUN, TRAIN, Running, visible

import drb.program.run
from drb.distributed.world import World
from drb.program.config import compose_config
from drb.tracking import NullTracker

TINY = ["tracking=none", "training.epochs=1", "hydra.run.dir=out"]


@pytest.mark.parametrize(
    "program",
    [TRAIN, [sys.executable, "-m", "drb.cli", "train"], [sys.executable, str(ROOT / "launch/train.py")]],
    ids=["drb.train", "drb.cli", "launch/train.py"],
)
def test_one_rank_trains_without_a_launcher(tmp_path, program):
    ended = Running([*program, *TINY, "scenario.num_tasks=2"], tmp_path).wait()
    assert ended.code == 0, ended
    assert "after task 2 (classes 2,3): accuracy" in ended.out
    assert "Traceback" not in ended.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["world_size"], summary["rehearsal"]["exchange"]) == (1, "loopback")
    assert [entry["task"] for entry in summary["history"]] == [1, 2]  # as the lines say
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert visible(tmp_path / "out") == [
        "checkpoints",
        "config.yaml",
        "ledger",
        "model.json",
        "model.safetensors",
        "summary.json",
    ]


def test_a_run_that_is_told_to_stop_says_so_by_its_exit_code(tmp_path):
    program = Running([*TRAIN, *TINY, "checkpoint=none", "training.epochs=1000000"], tmp_path)
    program.wait_for("er on digits")
    program.signal(signal.SIGTERM)
    ended = program.wait(30)
    assert ended.code == 128 + signal.SIGTERM
    assert "Traceback" not in ended.err
    assert not (tmp_path / "out" / "summary.json").exists()


def test_the_library_works_in_a_plain_loop(tmp_path):
    ended = Running([*TORCHRUN, "--nproc-per-node=2", str(ROOT / "examples/plain_ddp.py")], tmp_path).wait()
    assert ended.code == 0, ended
    *_, last = ended.out.splitlines()
    assert last.startswith("after task 5: accuracy ")
    assert float(last.split()[4].rstrip("%")) > 75  # 20 without rehearsal


def test_the_example_stays_short():
    assert len((ROOT / "examples/plain_ddp.py").read_text().splitlines()) <= 60


def test_derpp_in_a_loop_of_ones_own_learns_all_classes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    assert importlib.import_module("derpp_loop").main() > 0.85


def test_mixed_sources_in_a_loop_of_ones_own_print_what_the_page_says(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples")
    importlib.import_module("mixed_sources").main()
    assert f"```\n{capsys.readouterr().out}```" in (ROOT / "docs/mix.md").read_text()


@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_the_tracker_learns_how_a_run_ended(tmp_path, monkeypatch, error, status):
    class Recording(NullTracker):
        def close(self, status):
            statuses.append(status)

    def fail(*_, **__):
        raise error

    statuses = []
    monkeypatch.setattr(drb.program.run, "open_tracker_of", lambda *_, **__: Recording())
    monkeypatch.setattr(drb.program.run, "dataset_of", fail)
    config, _ = compose_config(TINY, "id")
    with pytest.raises(type(error)):
        drb.program.run.run(config, tmp_path / "out", World())
    assert statuses == [status]


def test_every_scenario_and_kind_of_image_trains(tmp_path):
    """In this process, one after the other: what the groups offer works together."""
    jobs = [
        ["scenario=domain_incremental", "scenario.num_tasks=2"],
        ["scenario=instance_incremental", "scenario.num_tasks=2", "optimizer=adamw", "schedule=cosine"],
        ["scenario=task_incremental", "scenario.num_tasks=2", "model=cnn", "augmentation=crop_flip"],
        ["scenario.validation=0.1", "scenario.class_order=shuffled", "rehearsal=class_balanced", "model.head=fixed"],
        ["rehearsal=random_replacement", "rehearsal.capacity=20%", "training.accumulate=2", "training.precision=bf16"],
    ]
    for number, job in enumerate(jobs):
        config, run_dir = compose_config([*TINY, *job, f"hydra.run.dir={tmp_path / str(number)}"], "id")
        drb.program.run.run(config, run_dir, World())
        assert json.loads((run_dir / "summary.json").read_text())["acc"] > 0.15


def test_a_profiled_run_says_where_its_trace_is(tmp_path, capsys):
    steps = ["profile=true", "profiling.wait=2", "profiling.record=3", "scenario.num_tasks=2"]
    config, run_dir = compose_config([*TINY, *steps, f"hydra.run.dir={tmp_path}"], "id")
    drb.program.run.run(config, run_dir, World())
    trace = run_dir / "profile" / "rank-0.trace.json.gz"
    assert f"profile:{trace}" in "".join(capsys.readouterr().out.split())  # however the lines are broken
    with gzip.open(trace) as file:
        names = [event["name"] for event in json.load(file)["traceEvents"]]
    assert names.count("drb/extend") == 3
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["breakdown"]["steps"] == summary["steps"]
