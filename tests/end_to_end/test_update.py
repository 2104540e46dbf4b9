"""Days of updates: learnt, judged, promoted or kept aside, gone back from, killed and gone on with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from end_to_end.updates import FAST, Days, day
from programs import TORCHRUN, Running
from safetensors.torch import load_file

from benchmarks import ten_days
from drb.cli import main as drb
from drb.data.cache import open_prefilled
from drb.data.datasets import load_dataset
from drb.prefill import main as prefill
from drb.program.config import compose_config
from drb.program.evaluating import accuracies
from drb.program.mix_ledger import write_ledger
from drb.runs.lineage.files import fingerprint_of
from drb.training.method.batch import Batch
from drb.training.models.saved import load_network
from drb.training.phases import PhaseTrainer


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
    mix = [
        "scenario.shares={new: 2, base: 1}",
        "scenario.schedule={4: {new: 1, base: 1}}",
        "scenario.max_visits={new: 9}",
    ]
    days = Days(tmp_path, "tracking=none", "scenario=base_plus_new", "strategy=finetune", *mix)
    assert days.update(day(tmp_path, 1, [0, 1, 2])) == 0  # the settings of a mix wait for a base
    days.settings = []
    assert days.update(day(tmp_path, 2, [3, 0], count=20), "--may-fall", "base=30") == 0
    first, second = days.lineage.versions
    assert second.steps > first.steps
    assert second.after["new"] > 0.5
    ledger = json.loads((days.state / "versions/0002/mix.json").read_text())
    assert [source["sizes"][0][1] for source in ledger["mix"]["sources"]] == [20, 60]
    assert [source["max_visits"] for source in ledger["mix"]["sources"]] == [9, None]
    changes = [[step, shares] for step, _, shares, _ in ledger["mix"]["changes"]]
    assert changes == [[0, {"new": 2, "base": 1}], [4, {"new": 1, "base": 1}]]


def test_new_classes_grow_the_head_of_a_base_that_is_read_again(tmp_path):
    days = Days(tmp_path, "tracking=none", "scenario=base_plus_new", "strategy=finetune")
    assert days.update(day(tmp_path, 1, [0, 2])) == 0
    days.settings = ["optimizer.lr=1e-9", "training.epochs=1"]  # what it began with is what it ends with
    assert days.update(day(tmp_path, 2, [4, 1], count=20)) == 0
    before, after = (load_file(days.state / f"versions/000{number}/model.safetensors") for number in (1, 2))
    for name in before:
        known = len(before[name])
        assert torch.allclose(after[name][:known], before[name], atol=1e-6), name
        assert len(after[name]) == (5 if name.startswith("head.") else known)
    assert after["head.weight"][3:].std() > 0
    assert days.lineage.versions[1].before.keys() == {"base", "new"}


def test_stored_outputs_are_widened_when_an_update_brings_new_classes(tmp_path, monkeypatch):
    def counting(self, *arguments, attach=Batch.attach, **late):
        widths.append(late["logits"].shape[1])
        stored = self._fields.get("logits")
        if stored is not None:
            known.update(torch.isfinite(stored[self.exemplars]).sum(1).tolist())
            assert stored.shape[1] == 4 or widths[-1] == 2
        attach(self, *arguments, **late)

    widths, known = [], set[int]()
    monkeypatch.setattr(Batch, "attach", counting)
    days = Days(tmp_path, "tracking=none", "strategy=derpp", "optimizer.lr=0.02")
    assert days.update(day(tmp_path, 1, [0, 1])) == 0
    assert (set(widths), known) == ({2}, {2})
    widths.clear()
    assert days.update(day(tmp_path, 2, [3, 0]), "--may-fall", "base=40") == 0
    assert set(widths) == {4}
    assert known == {2, 4}  # columns that a sample was stored without are masked
    assert all(np.isfinite(value) for version in days.lineage.versions for value in version.after.values())


@pytest.mark.parametrize("mixes", [False, True])
def test_a_lineage_that_begins_from_a_pretrained_model_and_a_prefilled_folder(tmp_path, capsys, mixes):
    """The folder's samples are `base` from the first update on, rehearsed or mixed; a sample may be erased from it."""
    kind = ["scenario=base_plus_new", "strategy=finetune"] if mixes else []
    old, new = day(tmp_path, 1, [0, 1, 2]), day(tmp_path, 2, [4, 1], count=30)
    data = ["dataset=arrivals", f"dataset.files=[{old}]"]
    few = [setting for setting in FAST if not setting.startswith("rehearsal")]
    alone = ["experiment=none", "strategy=finetune", "scenario=arrivals", "tracking=none", *few]
    assert drb(["train", *alone, *data, f"hydra.run.dir={tmp_path}/pretrained"]) == 0
    base = tmp_path / "base=all"
    assert prefill([str(base), *data]) == 0
    days = Days(tmp_path, "tracking=none", *kind, f"model.init={tmp_path}/pretrained")
    begin = ["--base", str(base), "--may-fall", "base=25"]
    assert days.update(new, "--base", str(tmp_path)) == 1
    assert "drb prefill has not made it" in capsys.readouterr().err
    assert days.update(new, *begin) == 0
    (first,) = days.lineage.versions
    assert first.files == [str(base), str(new)]
    assert first.before["base"] > 0.9 > 0.6 > first.before["new"]  # the pretrained network knows one of two classes
    assert first.after["new"] > 0.9
    assert first.promoted
    config = json.loads((days.state / "versions/0001/summary.json").read_text())["config"]
    assert config["rehearsal"]["prefilled"] == (None if mixes else str(base))
    gone = open_prefilled(base).train.sample_ids[:3]
    assert prefill([str(base), "--forget", ",".join(map(str, gone))]) == 0
    days.settings = days.settings if mixes else days.settings[:-1]
    assert days.update(day(tmp_path, 3, [5], count=20), "--may-fall", "base=40") == 0
    assert days.lineage.versions[1].files == [str(base), str(new), str(tmp_path / "day3.npz")]
    assert days.update(day(tmp_path, 4, [6], count=20), "--base", str(tmp_path)) == 1
    assert f"began from {base}, got --base {tmp_path}" in capsys.readouterr().err
    if mixes:
        counts = json.loads((days.state / "versions/0002/mix.json").read_text())["mix"]["sources"]
        assert [source["sizes"][0][1] for source in counts] == [20, 30 + 60 - 3]


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
    trainer.steps = 0  # another run is started anew in the directory, and mixes nothing
    other, _ = compose_config(
        ["scenario=class_incremental", "scenario.num_tasks=2", "dataset=digits", "run_id=x"], None
    )
    write_ledger(tmp_path, other, load_dataset("digits"), trainer)
    assert not (tmp_path / "mix.json").exists()


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:The .*noload.* loader strategy")  # of MLflow's own store, with a new SQLAlchemy
def test_ten_days_killed_refused_and_gone_back_from_learn_as_one_run(tmp_path):
    tracking = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    lineage, files = ten_days.play(tmp_path, 0, ["seed=0", tracking])
    figures = ten_days.figures_of(lineage, ten_days.uninterrupted(tmp_path, 0, files), files)
    assert figures["accuracy"] > figures["uninterrupted_accuracy"] - 0.005  # day 7 went on on another number of ranks
    assert figures["largest_fall_points"] <= ten_days.MAY_FALL
    assert figures["world_sizes"] == [day.again for day in ten_days.STORY]
    assert [version.parent for version in lineage.versions] == [None, 1, 2, 3, 4, 4, 6, 7, 8, 8, 10, 11]
    assert [event["what"] for event in lineage.events].count("rolled back to") == 1
    for version, told in zip(lineage.versions, ten_days.STORY, strict=True):
        assert version.fingerprint == fingerprint_of(tmp_path / "days" / f"{told.file}.npz")
        assert version.promoted == (not version.failed) == (not told.fails)
        assert {"new", "base"} >= version.after.keys() >= {"new"}
        assert {"drb", "torch", "device", "host"} <= version.environment.keys()
        run = json.loads((lineage.run_dir(version.number) / "summary.json").read_text())
        assert run["config"]["dataset"]["files"] == version.files
        assert version.files == [*(lineage.version(version.parent).files if version.parent else []), version.data]
    check_tracked(f"sqlite:///{tmp_path}/mlflow.db", lineage)


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
