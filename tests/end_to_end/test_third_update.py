"""The update after two others: refused, at the same time as another, from Python, by a file and by mpirun."""

from __future__ import annotations

import os
import shutil
import sys

import mpiexec
import numpy as np
import pytest
import torch
from end_to_end.updates import Days, day
from safetensors.torch import load_file

from drb.cli import main as drb
from drb.runs.lineage import record
from drb.training.phases import PhaseTrainer
from drb.update import Update, job, main, update


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
@pytest.mark.skipif(bool(mpiexec.missing()), reason=mpiexec.missing() or "MPI is there")
def test_an_update_by_mpirun(again):
    options = ["--state", again.state, "--data", again.folder / "day3.npz"]
    ranks = [mpiexec.MPIEXEC, "-n", "2", sys.executable, "-m", "drb.update", *options]
    code, output = mpiexec.run_program(ranks, cwd=again.folder)
    assert code == 0, output
    assert output.count("outcome") == 1  # rank 0 alone speaks
    assert [version.environment["world_size"] for version in again.lineage.versions] == [1, 1, 2]
