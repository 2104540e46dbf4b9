"""A study from its file to its page, with made-up runs: what goes on, and what is shown."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import re
import signal
from pathlib import Path

import pytest
from ranks import FORKS
from study.made import STUDY, carry_out, launch, main, summary_of

from drb.checkpoint import RunLock
from drb.program.config.studies import study_files
from drb.study.definition import check_study, load_study
from drb.study.launch import run_study
from drb.study.page import write_page
from drb.study.results import Result, mixture, read_results
from drb.study.statistics import by_point
from drb.study.table import rows
from drb.study.tracked import status_of_study


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.full)])
def test_the_studies_that_drb_brings_along_can_be_run(every: bool):
    for name in study_files():
        study = load_study(name)
        assert study.question.endswith((".", "?"))
        assert len({point.folder for point in study.points}) == len(study.points) >= 2
        check_study(study if every else dataclasses.replace(study, points=study.points[-1:]))


def test_every_combination_is_a_point_and_every_seed_a_run(file: Path):
    study = load_study(str(file), ["optimizer.lr=0.1"])
    labels = [point.label for point in study.points]
    assert labels[:3] == [
        "rehearsal · capacity=100 · W=1",
        "rehearsal · capacity=100 · W=2",
        "rehearsal · capacity=200 · W=1",
    ]
    assert len(study.runs) == 2 * 2 * 2 * 3
    assert study.runs[-1].command() == (
        "torchrun --nproc-per-node=2 -m drb.train experiment=digits strategy=finetune rehearsal.capacity=200 "
        "optimizer.lr=0.1 seed=2"
    )


def test_the_page_has_every_number_with_its_deviation_and_command_and_what_failed(file: Path, tmp_path: Path):
    carry_out(file, tmp_path / "out")
    page = (tmp_path / "out/page.html").read_text()
    assert "<td>11.0 ± 1.0</td>" in page  # capacity 100: 10, 11 and 12 %
    assert "<td>0 of 3</td>" in page
    assert page.count("<td>1.5 ± 0.0 (2 of 3 runs)</td>") == 2  # in the last task: seeds 1 and 2, on 1 and 2 ranks
    assert page.count("exit code 3: drb: error: it is &lt;broken&gt;") == 12
    assert page.count("torchrun --nproc-per-node") == 24
    assert [name for name in ("Does more help?", "abc", "here", "seeds 0, 1, 2") if name not in page] == []
    plots = sorted(path.stem for path in (tmp_path / "out").glob("*.png"))
    wanted = [
        "accuracy_matrix",
        "accuracy_runtime",
        "accuracy_tasks",
        "breakdown",
        "curve_rehearsal.capacity",
        "scaling",
        "stored_when",
    ]
    assert plots == wanted
    assert page.count('src="data:image/png;base64,') == len(wanted)
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    with open(tmp_path / "out/table.csv") as table:
        row = next(csv.DictReader(table))
    assert (float(row["acc"]), float(row["acc_std"]), row["acc_n"]) == (pytest.approx(0.11), pytest.approx(0.01), "3")


def test_what_is_done_is_not_done_again_and_what_failed_is_tried_again(file: Path, tmp_path: Path):
    started = []

    def counting(run, run_dir):
        started.append(run.name)
        return launch(run, run_dir)

    study = load_study(str(file))
    for times in (1, 2):
        results = run_study(study, tmp_path / "out", counting, lambda line: None)
        assert [result.status for result in results].count("done") == 12
        assert started.count("rehearsal · capacity=100 · W=1 · seed 0") == 1
        assert started.count("broken · capacity=100 · W=1 · seed 0") == times


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.full)])
def test_a_study_killed_at_random_moments_ends_with_the_same_page(kills: int, file: Path, tmp_path: Path):
    carry_out(file, tmp_path / "whole")
    moments, done = random.Random(3), []
    for _ in range(kills):
        killed = moments.randrange(4, 13), moments.uniform(1e-4, 0.008)
        process = FORKS.Process(target=carry_out, args=(file, tmp_path / "killed", killed))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGALRM
        done.append(sum(1 for _ in (tmp_path / "killed").rglob("summary.json")))
    assert len(set(done)) >= min(kills, 4), done  # it was killed in the midst of several runs
    carry_out(file, tmp_path / "killed")
    for name in ("page.html", "table.md", "table.csv"):
        whole, other = ((tmp_path / folder / name).read_text() for folder in ("whole", "killed"))
        assert whole.replace("/whole/", "") == other.replace("/killed/", ""), name


def test_each_run_has_the_command_of_the_launcher_that_started_it(file: Path, tmp_path: Path):
    first, both = load_study(str(file)).with_seeds([0]), load_study(str(file)).with_seeds([0, 1])
    run_study(first, tmp_path, launch, lambda line: None, "mpirun")
    commands = [result.command for result in run_study(both, tmp_path, launch, lambda line: None)]
    by_mpirun = "mpirun -n 2 python -m drb.train experiment=digits strategy=er rehearsal.capacity=100 seed=0"
    assert by_mpirun in commands  # was done; `broken` was tried again
    assert [command.partition(" ")[0] for command in commands].count("mpirun") == 4
    by_torchrun = by_mpirun.replace("mpirun -n 2 python", "torchrun --nproc-per-node=2")
    assert by_torchrun.replace("seed=0", "seed=1") in commands


def test_a_page_beside_a_running_study_leaves_its_run_in_the_tracker_running(file: Path, tmp_path: Path, monkeypatch):
    folder, ended = tmp_path / "out", []

    class Tracked:
        def publish(self, files, table): ...
        def remove_curves(self): ...
        def publish_curve(self, name, curve): ...
        def end(self, status):
            ended.append(status)

    file.write_text(STUDY.replace("[1, 2]", "1").replace("[100, 200]", "[100]"))
    monkeypatch.setattr("drb.study.command.open_tracked_study", lambda study, folder: Tracked())
    study = load_study(str(file)).with_seeds([0])
    configs = {label: dataclasses.asdict(config) for label, config in check_study(study).items()}

    def launch_as_configured(run, run_dir):
        code = launch(run, run_dir)
        if code == 0:
            made = {**summary_of(run), "config": configs[run.point.label]}
            (run_dir / "summary.json").write_text(json.dumps(made))
        return code

    def page() -> list[str]:
        ended.clear()
        assert main([str(file), f"--out={folder}", "--seeds=0", "--page"]) == 1
        return ended

    run_study(study, folder, launch_as_configured, lambda line: None)
    assert page() == ["FAILED"]  # as `broken` has
    running = RunLock(folder, "drb study")
    assert page() == []
    running.release()
    good, broken = read_results(study, folder)
    queued, left = dataclasses.replace(broken, status="open", job="12"), dataclasses.replace(broken, status="open")
    assert status_of_study([good, queued], is_running=False) is None
    assert status_of_study([good, left], is_running=False) == "KILLED"
    assert status_of_study([good], is_running=True) == "FINISHED"


def test_runs_of_other_versions_or_data_are_told_on_the_page(file: Path, tmp_path: Path):
    study = load_study(str(file))
    study = dataclasses.replace(study, points=study.points[:1], seeds=(0, 1))
    results = [
        dataclasses.replace(each, summary={**each.summary, "data": "abc" if each.run.seed else "def", "device": "cpu"})
        for each in run_study(study, tmp_path, launch, lambda line: None)
        if each.summary
    ]
    assert mixture(results) == "The runs differ in data, so compare them with care."
    write_page(study, results, tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert "The runs differ in data" in page
    assert "<td>def, abc</td>" in page


def test_what_methods_cost_besides_is_shown_where_it_is_not_nothing(file: Path):
    study = load_study(str(file)).with_seeds([0])

    def heads(rows_forward: float) -> list[str]:
        cost = {"rows_trained": 10.0, "rows_forward": rows_forward, "method_bytes": 0.0}
        costs = {"rehearsal": cost, "broken": {**cost, "rows_forward": 0.0}}
        results = [Result(run, "done", {**summary_of(run), "cost": costs[run.point.name]}) for run in study.runs]
        return rows(by_point(results))[0]

    assert "rows trained per rank" in heads(0.0)
    assert "rows forward only per rank" not in heads(0.0)
    assert "rows forward only per rank" in heads(5.0)
    assert "memory of the method (kB)" not in heads(5.0)
