"""Days of updates: learnt, judged, promoted or kept aside, gone back from, killed and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import sys

import mpiexec
import numpy as np
import pytest
import torch
from programs import TORCHRUN, Running
from safetensors.torch import load_file

from benchmarks import ten_days
from drb.cli import main as drb
from drb.data.datasets import load_dataset
from drb.program.config import compose_config
from drb.program.evaluating import accuracies
from drb.program.mix_ledger import write_ledger
from drb.runs.lineage import record
from drb.runs.lineage.files import fingerprint_of
from drb.runs.lineage.record import read_lineage
from drb.training.method.batch import Batch
from drb.training.models.saved import load_network
from drb.training.phases import PhaseTrainer
from drb.update import Update, job, main, update

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


@pytest.fixture(scope="module")
def two_days(tmp_path_factory):
    """A lineage of two versions and a named evaluation set; files of a third day."""
    folder = tmp_path_factory.mktemp("two_days")
    days = Days(folder, "tracking=none", "training.epochs=2")
    files = [day(folder, number, [number, 0]) for number in (1, 2, 3)]
    assert days.update(files[0], "--eval", f"weak={day(folder, 9, [0])}") == 0
    assert days.update(files[1]) == 0
    return days


@pytest.fixture
def again(two_days, tmp_path):
    """The same, where a test may change what it likes."""
    shutil.copytree(two_days.folder, tmp_path / "again", symlinks=True)
    content = (tmp_path / "again/state/lineage.json").read_text()
    (tmp_path / "again/state/lineage.json").write_text(content.replace(str(two_days.folder), str(tmp_path / "again")))
    return Days(tmp_path / "again", "tracking=none", "training.epochs=2")


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def rewrite(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def empty_folder(path):
    path.unlink()
    path.mkdir()


def cut_checkpoints(run):
    for file in run.glob("checkpoints/*/*.safetensors"):
        cut(file)


REFUSED = {
    "no data": (lambda d: (d / "day3.npz").unlink(), [], "day3.npz cannot be read: No such file"),
    "damaged data": (lambda d: cut(d / "day3.npz"), [], "day3.npz cannot be read: it is no whole .npz file"),
    "a folder without pictures": (lambda d: empty_folder(d / "day3.npz"), [], "day3.npz holds no files"),
    "other samples": (lambda d: save(d / "day3.npz", np.zeros((9, 5), np.float32)), [], "samples of one kind"),
    "other types": (lambda d: save(d / "day3.npz", np.zeros((9, 12), np.float16)), [], "samples of one kind"),
    "labels below 0": (lambda d: save(d / "day3.npz", np.zeros((9, 12), np.float32), -1), [], "labels outside 0"),
    "the same data again": (lambda d: shutil.copy(d / "day2.npz", d / "day3.npz"), [], "version 2 has learnt"),
    "a damaged lineage": (lambda d: cut(d / "state/lineage.json"), [], "lineage.json is damaged"),
    "a lineage of another format": (
        lambda d: rewrite(d / "state/lineage.json", "drb-lineage 3", "drb-lineage 1"),
        [],
        "it is of another format",
    ),
    "no run": (lambda d: shutil.rmtree(d / "state/versions/0002"), [], "does not hold the run of version 2"),
    "another run": (
        lambda d: rewrite(d / "state/versions/0002/summary.json", "state-0002", "state-0007"),
        [],
        "holds the run state-0007, and not that of version 2",
    ),
    "a damaged network": (lambda d: cut(d / "state/versions/0002/model.safetensors"), [], "model.safetensors"),
    "damaged checkpoints": (lambda d: cut_checkpoints(d / "state/versions/0002"), [], "versions/0002/checkpoints"),
    "an old file that changed": (lambda d: day(d, 1, [1, 0], shift=1.0), [], "other content than version 1 learnt"),
    "an old file that is gone": (lambda d: (d / "day1.npz").unlink(), [], "day1.npz cannot be read: No such file"),
    "an evaluation set that changed": (lambda d: day(d, 9, [0], shift=1.0), [], "weak has other content than before"),
    "no evaluation set": (None, ["--eval", "weak=no.npz"], "no.npz cannot be read"),
    "an evaluation set of other samples": (
        lambda d: save(d / "odd.npz", np.zeros((9, 5), np.float32)),
        ["--eval", "odd={}/odd.npz"],
        "the evaluation set odd must have samples as the data has, float32 [12], and it has float32 [5]",
    ),
    "an evaluation set called new": (None, ["--eval", "new=x.npz"], "--eval takes NAME=PATH with a name that is not"),
    "a gate on an unknown set": (None, ["--may-fall", "strong=1"], "a gate is about the evaluation set 'strong'"),
    "a gate over 100": (None, ["--must-reach", "new=120"], "a number from 0 to 100, got 'new=120'"),
    "a ratio over 1": (None, ["dataset.test_fraction=1.5"], "dataset.test_fraction must be above 0 and below 1"),
    "a share over 100 %": (None, ["rehearsal.capacity=130%"], "rehearsal.capacity"),
    "an unknown setting": (None, ["training.epoch=2"], "training.epoch"),
    "an unknown model": (None, ["model=mpl"], "model=mpl"),
    "another network": (None, ["model.hidden=[9]"], "was made with model.hidden=[16], this run has [9]"),
    "other training": (None, ["training.epochs=3"], "was made with training.epochs=2, this run has 3"),
    "a setting that drb update decides": (None, ["checkpoint.enabled=false"], "chooses checkpoint.enabled itself"),
    "another scenario": (None, ["scenario=class_incremental"], "takes scenario=arrivals or scenario=base_plus_new"),
    "no configuration": (None, ["--config", "no.yaml"], "--config no.yaml cannot be read"),
    "another configuration": (
        lambda d: (d / "odd.yaml").write_text("gates: {new: {reach: 3}}"),
        ["--config", "{}/odd.yaml"],
        "got new: {'reach': 3}",
    ),
}


def save(path, samples, label=0):
    np.savez(path, image=samples, label=np.full(len(samples), label))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_line_and_leaves_everything_as_it_was(again, capsys, case):
    change, arguments, message = REFUSED[case]
    if change is not None:
        change(again.folder)
    before = contents(again.state)
    capsys.readouterr()
    given = [argument.format(again.folder) for argument in arguments]
    settings = [s for s in again.settings if s.partition("=")[0] not in {a.partition("=")[0] for a in given}]
    assert main(["--state", str(again.state), "--data", str(again.folder / "day3.npz"), *settings, *given]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert contents(again.state) == before


def contents(state):
    """Everything in a folder but locks: files' sizes, and the whole of what says which version is current."""
    files = {path.relative_to(state): path.lstat().st_size for path in state.rglob("[!.]*")}
    return files, (state / "lineage.json").read_bytes(), os.readlink(state / "current")


@pytest.mark.parametrize("setting", ["model=resnet18", "model.init=no.safetensors", "training.epochs=none"])
def test_a_first_update_that_cannot_be_trained_leaves_nothing(tmp_path, capsys, setting):
    days = Days(tmp_path, "tracking=none")
    data = day(tmp_path, 1, [0, 1])
    settings = [s for s in days.settings if not setting.startswith("model=") or not s.startswith("model")]
    assert main(["--state", str(days.state), "--data", str(data), *settings, setting]) == 1
    err = capsys.readouterr().err
    assert setting.partition("=")[2] in err
    assert err.count("\n") == 1
    assert not [path for path in days.state.rglob("*") if path.is_file()]


def test_what_was_begun_and_saved_nothing_gives_way_to_other_data(again, monkeypatch, capsys):
    def die(self, *arguments):
        raise MemoryError("killed")

    step = PhaseTrainer._optimisation_step
    monkeypatch.setattr(PhaseTrainer, "_optimisation_step", die)
    assert again.update(again.folder / "day3.npz") == 1
    assert (again.state / "versions/0003/update.json").exists()
    monkeypatch.setattr(PhaseTrainer, "_optimisation_step", step)
    other = day(again.folder, 4, [4, 0])
    assert again.update(other) == 0
    assert again.lineage.version(3).data == str(other)


def test_a_version_that_was_made_current_meanwhile_is_not_overwritten(again, monkeypatch, capsys):
    def rolled_back_meanwhile(update, *arguments, finish=Update.finish):
        assert drb(["rollback", str(again.state)]) == 0
        finish(update, *arguments)

    monkeypatch.setattr(Update, "finish", rolled_back_meanwhile)
    assert again.update(again.folder / "day3.npz") == 1
    assert "version 1 of" in (err := capsys.readouterr().err)
    assert "was made current while this update went on from 2" in err
    assert (again.current, again.lineage.current, len(again.lineage.versions)) == ("versions/0001", 1, 2)


def test_nobody_goes_back_while_an_update_is_recorded(again, monkeypatch, capsys):
    def tracked(*arguments, track=job.track_update, **more):
        assert drb(["rollback", str(again.state)]) == 1
        return track(*arguments, **more)

    monkeypatch.setattr(record, "PATIENCE_S", 0.0)
    monkeypatch.setattr(job, "track_update", tracked)
    assert again.update(again.folder / "day3.npz") == 0
    assert "is in use by an update (process" in capsys.readouterr().err
    assert (again.current, again.lineage.current) == ("versions/0003", 3)


def test_of_two_updates_at_once_the_second_is_told_before_it_begins(again, monkeypatch, capsys):
    def late(update, begin=Update.begin):
        monkeypatch.setattr(Update, "begin", begin)
        assert again.update(again.folder / "day3.npz") == 0
        before.append(contents(again.state))
        capsys.readouterr()
        begin(update)

    before = []
    monkeypatch.setattr(Update, "begin", late)
    assert again.update(day(again.folder, 4, [4, 0])) == 1
    said = capsys.readouterr()
    assert "another process has recorded version 3 of" in said.err
    assert "is finished" not in said.out
    assert contents(again.state) == before[0]


def test_an_evaluation_set_that_changed_is_taken_if_it_is_named_again(again):
    weak = day(again.folder, 9, [0], shift=1.0)
    assert again.update(again.folder / "day3.npz", "--eval", f"weak={weak}") == 0


def test_an_update_from_python_and_by_a_file(again, tmp_path, capsys):
    version = update(
        again.state, again.folder / "day3.npz", gates={"new": {"must_reach": 100}, "base": {"may_fall": 0}}
    )
    assert version == again.lineage.versions[-1]
    assert version.environment["world_size"] == 1
    assert "training.epochs=2" in version.settings
    with pytest.raises(ValueError, match="x.npz cannot be read"):
        update(again.state, "x.npz")
    file = tmp_path / "update.yaml"
    day(again.folder, 8, [0])
    file.write_text("eval_sets: {hard: again/day8.npz}\ngates: {hard: {must_reach: 1}, base: {may_fall: 60}}\n")
    assert again.update(day(again.folder, 4, [4, 0]), "--config", str(file), "--may-fall", "base=70") == 0
    assert again.lineage.gates["base"] == {"may_fall": 70}
    assert again.lineage.gates["hard"] == {"must_reach": 1}
    assert again.lineage.versions[-1].after.keys() == {"base", "new", "weak", "hard"}
    day(again.folder, 8, [0], shift=1.0)
    assert again.update(day(again.folder, 5, [4, 0]), "--config", str(file)) == 1
    assert "the evaluation set hard has other content than before" in capsys.readouterr().err


def test_a_line_of_updates_is_bit_for_bit_one_run(two_days):
    files = [str(two_days.folder / f"day{number}.npz") for number in (1, 2)]
    data = ["dataset=arrivals", f"dataset.files=[{','.join(files)}]", "scenario=arrivals"]
    assert drb(["train", *two_days.settings, *data, f"hydra.run.dir={two_days.folder}/run"]) == 0
    line, run = (load_file(two_days.folder / at / "model.safetensors") for at in ("state/current", "run"))
    assert all(torch.equal(line[name], run[name]) for name in line | run)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:The .noload. loader strategy")  # of MLflow's own store, with a new SQLAlchemy
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
@pytest.mark.skipif(bool(mpiexec.missing()), reason=mpiexec.missing() or "MPI is there")
def test_an_update_by_mpirun(again):
    options = ["--state", again.state, "--data", again.folder / "day3.npz"]
    ranks = [mpiexec.MPIEXEC, "-n", "2", sys.executable, "-m", "drb.update", *options]
    code, output = mpiexec.run_program(ranks, cwd=again.folder)
    assert code == 0, output
    assert output.count("outcome") == 1  # rank 0 alone speaks
    assert [version.environment["world_size"] for version in again.lineage.versions] == [1, 1, 2]


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
