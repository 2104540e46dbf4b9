"""Days of updates: learnt, judged, promoted or kept aside, gone back from, killed and gone on with."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from programs import TORCHRUN, Running

from drb.cli import main as drb
from drb.data.datasets import load_dataset
from drb.program.config import compose_config
from drb.program.evaluating import accuracies
from drb.program.ledger import write_ledger
from drb.runs.lineage.record import read_lineage
from drb.training.models.saved import load_network
from drb.training.phases import PhaseTrainer
from drb.update import Update, main

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


@pytest.mark.parametrize("tracked", [False, pytest.param(True, marks=pytest.mark.full)])
def test_days_of_updates(tmp_path, capsys, monkeypatch, tracked):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    days = Days(tmp_path, f"tracking.uri={uri}" if tracked else "tracking=none")
    files = [day(tmp_path, number, classes) for number, classes in enumerate(([0, 1, 2], [3], [4, 0], [5]), 1)]
    assert days.update(files[0], "--must-reach", "new=90", "--may-fall", "base=20", *["--export"][:tracked]) == 0
    if tracked:
        check_export(days.state / "versions/0001")
    assert days.update(files[1]) == 0
    assert days.current == "versions/0002"
    assert days.update(files[2], "--must-reach", "base=100", "--may-fall", "base=0", "--must-reach", "new=100") == 0
    lineage = days.lineage
    assert [each.promoted for each in lineage.versions] == [True, True, not lineage.versions[2].failed]

    # killed in the midst of an update, and gone on with by the same command
    step, seen = PhaseTrainer._optimisation_step, []

    def stop_after_25(self, *arguments):
        seen.append(1)
        if len(seen) > 25:
            raise MemoryError("killed")
        step(self, *arguments)

    monkeypatch.setattr(PhaseTrainer, "_optimisation_step", stop_after_25)
    loose = ["--must-reach", "base=0", "--may-fall", "base=50", "--must-reach", "new=50"]
    before = days.current
    assert days.update(files[3], *loose) == 1
    assert days.current == before
    assert days.lineage == lineage
    monkeypatch.setattr(PhaseTrainer, "_optimisation_step", step)
    capsys.readouterr()
    assert days.update(files[2], *loose) == 1  # another update must not take its place
    assert "was begun and not finished" in capsys.readouterr().err
    assert days.update(files[3], *loose) == 0
    assert f"resumed from {days.state}/versions/0004/checkpoints/" in capsys.readouterr().out
    lineage = days.lineage
    assert lineage.current == 4
    assert all(version.trained > 0 for version in lineage.versions)
    for version in lineage.versions[1:]:
        assert version.steps == lineage.version(version.parent).steps + version.trained
    if tracked:
        check_tracked(uri, lineage)

    # what was written down is what the networks do
    assert accuracies(days.state / "current", {}) == {}
    parent = lineage.version(lineage.versions[3].parent)
    assert lineage.versions[3].files == [*parent.files, str(files[3])]
    assert load_network(days.state / "current").num_classes == 6
    assert days.update(files[3]) == 1  # learnt already
    assert "has learnt" in capsys.readouterr().err


def check_export(folder):
    """torch.export's file, and safetensors', give the same outputs."""
    samples = torch.randn(5, 12)
    exported = torch.export.load(folder / "model.pt2").module()
    assert torch.allclose(exported(samples), load_network(folder)(samples), atol=1e-6)


def check_tracked(uri, lineage):
    """One parent, whose metrics go up with the lineage's steps; a nested run for each update; the alias."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    parent = lineage.tracking["parent"]
    experiment = client.get_run(parent).info.experiment_id
    runs = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in client.search_runs([experiment])}
    children = {version.tracking_run_id for version in lineage.versions}
    assert runs == {parent: None, **dict.fromkeys(children, parent)}
    points = client.get_metric_history(parent, "accuracy/new")
    steps = np.cumsum([version.trained for version in lineage.versions]).tolist()
    assert [(point.step, point.value) for point in points] == [
        (step, version.after["new"]) for step, version in zip(steps, lineage.versions, strict=True)
    ]
    registered = client.get_model_version_by_alias(lineage.tracking["model"], "current")
    assert registered.run_id == lineage.version(lineage.current).tracking_run_id


def test_a_base_that_is_read_again(tmp_path):
    days = Days(tmp_path, "tracking=none", "scenario=base_plus_new", "strategy=finetune")
    assert days.update(day(tmp_path, 1, [0, 1, 2])) == 0
    assert days.update(day(tmp_path, 2, [3, 0], count=20), "--may-fall", "base=30") == 0
    first, second = days.lineage.versions
    assert second.steps > first.steps
    assert second.after["new"] > 0.5
    ledger = json.loads((days.state / "versions/0002/mix.json").read_text())
    assert [source["sizes"][0][1] for source in ledger["mix"]["sources"]] == [20, 60]


def test_a_ledger_that_was_lost_when_a_run_went_on_is_not_made_up(tmp_path, capsys):
    class Begun:
        steps, rows_per_step = 0, 12

    dataset = load_dataset("arrivals", files=[str(day(tmp_path, number, [0, 1])) for number in (1, 2)])
    config, _ = compose_config(["scenario=base_plus_new", "dataset=arrivals", "run_id=x"], None)
    trainer = Begun()
    write_ledger(tmp_path, config, dataset, trainer)
    trainer.steps = 3
    (tmp_path / "summary.json").write_text('{"steps": 3}')
    write_ledger(tmp_path, config, dataset, trainer)
    assert drb(["audit", str(tmp_path), "--step", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    whole = (tmp_path / "mix.json").read_text()
    for content in (None, "{", whole.replace('"seed": ', '"seed": 1')):
        (tmp_path / "mix.json").unlink()
        if content:
            (tmp_path / "mix.json").write_text(content)
        for _ in range(2):  # and it does not come back
            write_ledger(tmp_path, config, dataset, trainer)
            assert drb(["audit", str(tmp_path), "--mixture"]) == 1
            assert "when the run went on after step 3: which samples" in capsys.readouterr().err


def move_run(state):
    shutil.rmtree(state / "versions/0001")


def take_another_run(state):
    summary = state / "versions/0001/summary.json"
    summary.write_text(summary.read_text().replace("state-0001", "state-0007"))


def test_an_update_is_refused_if_what_it_stands_on_has_changed(tmp_path, capsys, monkeypatch):
    days = Days(tmp_path, "tracking=none", "training.epochs=1")
    files = [day(tmp_path, number, [number, 0]) for number in (1, 2)]
    weak = day(tmp_path, 3, [0])
    assert days.update(files[0], "--eval", f"weak={weak}") == 0
    shutil.copytree(tmp_path / "state", tmp_path / "kept", symlinks=True)
    before = days.lineage

    def rolled_back_meanwhile(update, *arguments, finish=Update.finish):
        assert drb(["rollback", str(days.state)]) == 0
        finish(update, *arguments)

    for change, message in (
        (lambda state: day(tmp_path, 1, [1, 0], shift=1.0), "day1.npz has other content than version 1 learnt"),
        (lambda state: files[0].unlink(), "day1.npz cannot be read: No such file"),
        (lambda state: day(tmp_path, 3, [0], shift=1.0), "the evaluation set weak has other content than before"),
        (move_run, "versions/0001 does not hold the run of version 1, which is current"),
        (take_another_run, "versions/0001 holds the run state-0007, and not that of version 1"),
    ):
        change(days.state)
        capsys.readouterr()
        assert days.update(files[1]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
        shutil.rmtree(days.state)
        shutil.copytree(tmp_path / "kept", days.state, symlinks=True)
        day(tmp_path, 1, [1, 0])
        day(tmp_path, 3, [0])
    assert days.lineage == before
    assert days.update(files[1], "checkpoint.enabled=false") == 1
    assert "drb update chooses checkpoint.enabled itself" in capsys.readouterr().err
    day(tmp_path, 3, [0], shift=1.0)
    assert days.update(files[1], "--eval", f"weak={weak}") == 0  # named again
    monkeypatch.setattr(Update, "finish", rolled_back_meanwhile)
    assert days.update(day(tmp_path, 4, [0, 4])) == 1
    assert "version 1 of" in (err := capsys.readouterr().err)
    assert "was made current while this update went on from 2" in err
    assert (days.current, days.lineage.current, len(days.lineage.versions)) == ("versions/0001", 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "no.npz"], "no.npz cannot be read: No such file"),
        (["--data", "DAY", "--may-fall", "weak=1"], "a gate is about the evaluation set 'weak'"),
        (["--data", "DAY", "--eval", "weak=no.npz"], "no.npz cannot be read"),
        (["--data", "DAY", "--eval", "new=DAY"], "--eval takes NAME=FILE with a name that is not base or new"),
        (["--data", "DAY", "--must-reach", "new=120"], "a number from 0 to 100, got 'new=120'"),
        (["--data", "DAY", "training.epochs=none"], "training.epochs"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_changes_nothing(tmp_path, capsys, arguments, message):
    data = day(tmp_path, 1, [0, 1])
    given = [argument.replace("DAY", str(data)) for argument in arguments]
    assert main(["--state", str(tmp_path / "state"), *given]) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
    assert not (tmp_path / "state/lineage.json").exists()
    assert not (tmp_path / "state/current").exists()


@pytest.mark.full
def test_updates_on_two_ranks_killed_and_gone_on_with_on_one(tmp_path):
    days = Days(tmp_path, "tracking=none", "training.epochs=40")
    files = [day(tmp_path, number, classes) for number, classes in ((1, [0, 1, 2]), (2, [3]))]

    def command(data, launcher):
        options = ["--state", str(days.state), "--data", str(data), "--may-fall", "base=30"]
        return Running([*launcher, "-m", "drb.update", *options, *days.settings], tmp_path)

    two = [*TORCHRUN, "--nproc-per-node=2"]
    ended = command(files[0], two).wait(120)
    assert ended.code == 0, ended
    running = command(files[1], two)
    running.wait_for("resumed from")
    running.signal(15)
    running.wait(60)
    assert days.lineage.current == 1
    assert days.update(files[1], "--may-fall", "base=30") == 0
    assert days.lineage.current == 2
    assert [version.environment["world_size"] for version in days.lineage.versions] == [2, 1]


def test_data_that_is_refused_leaves_nothing_that_blocks_other_data(tmp_path, capsys):
    days = Days(tmp_path, "tracking=none", "training.epochs=1")
    negative = day(tmp_path, 1, [-1, 1])
    assert days.update(negative) == 1
    assert "labels outside" in capsys.readouterr().err
    assert not days.state.exists()
    assert days.update(day(tmp_path, 2, [0, 1])) == 0
    doubles, shape = tmp_path / "bytes.npz", tmp_path / "shape.npz"
    np.savez(doubles, image=np.zeros((9, 12), np.uint8), label=np.arange(9) % 2)
    np.savez(shape, image=np.zeros((9, 5), np.float32), label=np.arange(9) % 2)
    for file in (doubles, shape):
        assert days.update(file) == 1
        assert "must have samples of one kind" in capsys.readouterr().err
    assert not (days.state / "versions/0002").exists()
    assert days.update(day(tmp_path, 3, [0, 2])) == 0
    assert days.lineage.current == 2
