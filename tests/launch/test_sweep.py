"""Sweeps and the Slurm command line make the commands that a user would type."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from launch import slurm, sweep

FOLDER = Path("runs/sweep")


def test_every_combination_is_one_torchrun_with_its_own_run_directory():
    commands = sweep.commands_of(["seed=0,1", "ranks=1,2", "model.hidden=[100,50]", "strategy=er"], FOLDER)
    assert [command[3:] for command in commands] == [
        [
            "--standalone",
            f"--nproc-per-node={ranks}",
            "-m",
            "drb.train",
            f"seed={seed}",
            "model.hidden=[100,50]",
            "strategy=er",
            f"hydra.run.dir={FOLDER}/seed_{seed}-ranks_{ranks}",
        ]
        for seed in (0, 1)
        for ranks in (1, 2)
    ]


def test_odd_values_make_plain_folder_names():
    (command,) = sweep.commands_of(["rehearsal.capacity=20%"], FOLDER)
    assert command[-1] == f"hydra.run.dir={FOLDER}/run"
    names = [c[-1] for c in sweep.commands_of(["rehearsal.capacity=20%,1GiB", "model.hidden=[1,2],[3]"], FOLDER)]
    assert names[0] == f"hydra.run.dir={FOLDER}/capacity_20_-hidden__1-2_"
    assert len(set(names)) == 4


def test_runs_are_named_by_what_varies_but_for_seeds_and_ranks():
    swept = ["rehearsal.capacity=20,400", "strategy=er", "seed=0,1", "ranks=1,2"]
    commands = sweep.commands_of(swept, FOLDER)
    names = {argument for command in commands for argument in command if argument.startswith("name=")}
    assert names == {"name='capacity=20'", "name='capacity=400'"}
    commands = sweep.commands_of(["strategy=er,finetune", "rehearsal.capacity=20,30", "name=x"], FOLDER)
    assert all("name=x" in command and not any(a.startswith("name='") for a in command) for command in commands)


def test_a_dry_run_prints_and_starts_nothing(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", None)
    assert sweep.main(["--dry-run", "seed=0,1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in lines[:2]] == ["[1/2]", "[2/2]"]
    assert lines[2].startswith("compare: drb report runs/sweep-")


def test_the_first_failure_ends_a_sweep_unless_it_shall_go_on(monkeypatch, capsys):
    started = []

    def fail(command):
        started.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", fail)
    assert sweep.main(["seed=0,1"]) == 1
    assert len(started) == 1
    assert sweep.main(["--keep-going", "seed=0,1"]) == 1
    assert len(started) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "launch.sweep: error: failed: 1, 2 of 2"


def test_a_sweep_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DRB_RUNS", str(tmp_path))
    tiny = ["experiment=digits", "tracking=none", "scenario.num_tasks=1", "training.epochs=1", "ranks=1"]
    assert sweep.main([*tiny, "optimizer.lr=0.1"]) == 0
    (file,) = tmp_path.rglob("summary.json")
    assert json.loads(file.read_text())["config"]["optimizer"]["lr"] == 0.1


def test_slurm_options_variables_and_settings_go_where_they_belong(capsys):
    assert slurm.main(["--nodes=4", "DRB_MAX_RESTARTS=3", "seed=1", "--srun", "--gpus-per-node=8"]) == 0
    words = capsys.readouterr().out.split()
    assert words[:5] == [
        "sbatch",
        "--nodes=4",
        "--gpus-per-node=8",
        "--ntasks-per-node=8",
        "--export=ALL,DRB_MAX_RESTARTS=3",
    ]
    assert words[5].endswith("slurm/train_srun.sbatch")
    assert words[6:] == ["seed=1"]


@pytest.mark.parametrize(
    ("program", "arguments", "line"),
    [
        (slurm, ["--nodes", "4"], "--nodes needs its value behind an equals sign, as in --nodes=..."),
        (slurm, ["seed"], "'seed' is neither --option=value for sbatch nor key=value for drb train"),
        (slurm, ["DRB_PYTHON=a,b"], "a DRB_ variable with a comma cannot be given to sbatch"),
        (sweep, ["seed"], "'seed' is not key=value or key=a,b,c"),
        (
            sweep,
            ["--slurm", "seed=1"],
            "there is no option --slurm; to submit combinations to Slurm, use drb study --slurm",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(program, arguments, line, capsys):
    assert program.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert line in err
    assert err.count("\n") == 1


def test_no_sbatch_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert slurm.main(["--submit", "seed=1"]) == 1
    assert capsys.readouterr().err == (
        "launch.slurm: error: there is no sbatch here; run this on a login node of the cluster\n"
    )
