"""`drb report` reads run directories and shows them side by side; what is no run is one line."""

from __future__ import annotations

import itertools
import json

import pytest
from runs.report.summaries import three_runs

from drb.cli import main
from drb.runs.report.scaling import scaling_points


@pytest.fixture
def runs(tmp_path):
    """Three runs on 1, 2 and 4 ranks at 100, 180 and 320 samples/s."""
    for ranks, speed, summary in zip((1, 2, 4), (100.0, 180.0, 320.0), three_runs(), strict=True):
        summary |= {"world_size": ranks, "samples_per_second": speed, "strategy": "er"}
        folder = tmp_path / f"run{ranks}"
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_runs_of_a_folder_are_compared_and_drawn(runs, capsys):
    assert main(["report", "--plots", str(runs / "plots"), str(runs)]) == 0
    out = capsys.readouterr().out
    assert "incremental" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["er", "1", "1", "100", "100", "%", "20.6"] in lines
    assert ["er", "2", "1", "180", "90", "%", "90.0"] in lines
    assert ["er", "4", "1", "320", "80", "%", "96.9"] in lines
    assert (runs / "plots" / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert (runs / "plots" / "accuracy_matrix.png").exists()


def test_runs_on_equally_many_ranks_have_no_scaling(runs, capsys):
    assert main(["report", str(runs / "run2"), str(runs / "run2" / "summary.json")]) == 0
    assert "efficiency" not in capsys.readouterr().out


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(tmp_path, capsys):
    """Capacities 20 and 400 of one strategy, two seeds each, on 1 and 2 ranks."""
    for number, (capacity, seed, ranks) in enumerate(itertools.product((20, 400), (0, 1), (1, 2))):
        config = {"seed": seed, "run_id": str(number), "rehearsal": {"capacity": capacity}, "strategy": {"name": "er"}}
        speed = 100.0 * ranks * capacity
        run = three_runs()[1] | {"name": "er", "seed": seed, "world_size": ranks, "config": config}
        (tmp_path / str(number)).mkdir()
        text = json.dumps(run | {"samples_per_second": speed, "acc": capacity / 1000})
        (tmp_path / str(number) / "summary.json").write_text(text)
    assert main(["report", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sum(line[:2] == ["er", "capacity=20"] for line in lines) == 4 + 2  # of the table, and of the scaling
    assert [line[2:4] for line in lines if line[:2] == ["er", "capacity=20"]][:4] == [
        ["1", "0"],
        ["2", "0"],
        ["1", "1"],
        ["2", "1"],
    ]  # ranks and seed
    assert ["er", "capacity=20", "1", "2", "2,000", "100", "%", "2.0"] in lines
    assert ["er", "capacity=400", "2", "2", "80,000", "100", "%", "40.0"] in lines


def test_runs_of_different_jobs_are_told_apart_in_a_few_words(tmp_path, capsys):
    """Other data and another model are named, not each of their options, and nothing is said of how they scale."""
    digits = {"dataset": {"name": "digits", "seed": 0}, "model": {"name": "mlp", "hidden": [9]}, "training": {"lr": 1}}
    pictures = {"dataset": {"name": "image_folder", "size": 9}, "model": {"name": "cnn", "width": 8}, "training": {}}
    for name, ranks, config in (("one", 1, digits), ("two", 2, pictures)):
        (tmp_path / name).mkdir()
        run = three_runs()[1] | {"world_size": ranks, "seed": 0, "config": config, "samples_per_second": 1.0}
        (tmp_path / name / "summary.json").write_text(json.dumps(run))
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "rehearsal dataset=digits lr=1 " in out
    assert "rehearsal dataset=image_folder lr=null " in out
    assert "efficiency" not in out


def test_a_run_that_failed_does_not_hide_the_others(runs, capsys):
    (runs / "failed").mkdir()
    assert main(["report", str(runs / "run2"), str(runs / "failed")]) == 0
    out, err = capsys.readouterr()
    assert "rehearsal" in out
    assert err.startswith(f"drb: left out: {runs / 'failed'} holds no summary.json")


def test_seeds_are_averaged_and_strategies_kept_apart():
    runs = [
        {"strategy": strategy, "world_size": ranks, "samples_per_second": speed, "acc": acc}
        for strategy, ranks, speed, acc in [
            ("er", 2, 90.0, 0.5),
            ("er", 2, 110.0, 0.7),
            ("er", 8, 200.0, None),
            ("finetune", 1, 10.0, 0.1),
        ]
    ]
    points = [(p.strategy, p.ranks, p.runs, p.samples_per_second, p.efficiency) for p in scaling_points(runs)]
    assert points == [("er", 2, 2, 100.0, 1.0), ("er", 8, 1, 200.0, 0.5), ("finetune", 1, 1, 10.0, 1.0)]
    assert scaling_points(runs)[0].acc == pytest.approx(0.6)
    assert scaling_points(runs)[1].acc is None


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: [str(folder)], "holds no summary.json: it is no run directory, or its run has not finished"),
        (lambda folder: [str(_odd(folder))], "is no summary of a run: KeyError: 'accuracy_matrix'"),
        (lambda folder: ["--plots"], "--plots needs a folder"),
        (lambda folder: ["--plots", str(folder)], "there is no run to report on"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, capsys, make, line):
    assert main(["report", *make(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drb: error: ")
    assert line in err
    assert err.count("\n") == 1


def _odd(folder):
    (folder / "summary.json").write_text("{}")
    return folder
