"""The smallest capacity that accuracy allows, of those that a study trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.made import STUDY, carry_out, main, summary_of

from drb.study.definition import load_study
from drb.study.page import TABLE
from drb.study.results import Result
from drb.study.smallest import smallest_capacities
from drb.study.statistics import by_point

ONE = STUDY.replace("  broken: [strategy=finetune]\n", "").replace("ranks: [1, 2]", "ranks: 1")


def results_of(tmp_path: Path, scores: dict[int, list[float]]) -> list[Result]:
    """Finished runs with these accuracies, by capacity and seed, and open ones of the other seeds."""
    file = tmp_path / "made.yaml"
    file.write_text(ONE.replace("[100, 200]", str(list(scores))))
    runs = load_study(str(file)).runs
    found = [(run, scores[run.point.values["rehearsal.capacity"]]) for run in runs]
    return [
        Result(run, "done", summary_of(run, of[run.seed])) if run.seed < len(of) else Result(run, "open")
        for run, of in found
    ]


def test_the_smallest_is_one_above_which_none_is_too_bad_compared_seed_by_seed(tmp_path):
    scores = {100: [0.795, 0.70, 0.60], 200: [0.70, 0.60, 0.50], 400: [0.795, 0.695, 0.595], 800: [0.80, 0.70]}
    (line,) = smallest_capacities(by_point(results_of(tmp_path, scores)), within=1.0)
    assert "rehearsal.capacity=400 is the smallest within 1 of 800" in line  # 200 is too bad, so 100 was luck
    assert "100: -0.25 ± 0.25 (n=2); 200: -10.00 ± 0.00 (n=2); 400: -0.50 ± 0.00 (n=2)" in line
    (line,) = smallest_capacities(by_point(results_of(tmp_path, scores)), within=10.5)
    assert "rehearsal.capacity=100 is" in line
    (line,) = smallest_capacities(by_point(results_of(tmp_path, scores)), within=0.0)
    assert "rehearsal.capacity=800 is" in line


def without_pictures(study, results, folder):
    (folder / TABLE).write_text("| a table |")
    return [folder / "page.html"]


def test_the_command_names_it_below_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("drb.study.command.write_page", without_pictures)
    monkeypatch.setattr("drb.study.command.require_same_configs", lambda *_: None)  # those of made runs are empty
    file = tmp_path / "made.yaml"
    file.write_text(ONE)
    carry_out(file, tmp_path / "out")
    command = [str(file), "--out", str(tmp_path / "out"), "--page", "--within", "15"]
    assert main(command) == 0
    assert "rehearsal.capacity=100 is the smallest within 15 of 200 (100: -10.00" in capsys.readouterr().out
    file.write_text(ONE.replace("[100, 200]", "[100]"))
    assert main(command) == 1
    assert "--within compares capacities, and this study does not train rehearsal" in capsys.readouterr().err
    assert main([*command[:-1], "-1"]) == 1
    assert "--within must be a number of at least 0, got -1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="with the same seeds"):
        smallest_capacities(by_point(results_of(tmp_path, {100: [0.5], 200: []})), within=1.0)
