"""Studies that cannot be run or shown: each is refused in one sentence before anything starts."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from study.made import STUDY, launch, main

from drb.program.config.studies import study_files
from drb.study.definition import check_study, load_study
from drb.study.launch import run_study
from drb.study.results import Result, read_results, require_same_configs


def test_results_of_other_settings_are_refused_in_a_sentence_that_names_what_differs(file: Path, tmp_path: Path):
    def asked(*settings: str, of: str = STUDY):
        file.write_text(of)
        return load_study(str(file), settings).with_seeds([0])

    done = asked("optimizer.lr=0.1", "optimizer.momentum=0")
    run_study(done, tmp_path / "out", launch, lambda line: None)
    run_dir = tmp_path / "out" / done.runs[0].folder
    differs = {
        "with optimizer.lr=0.1, the study asks for optimizer.lr=0.2": asked("optimizer.lr=0.2", "optimizer.momentum=0"),
        "with optimizer.lr=0.1 and optimizer.momentum=0, which the study does not ask for": asked(),
        "without optimizer.x=1, which the study asks for": asked(
            "optimizer.lr=0.1", "optimizer.momentum=0", "optimizer.x=1"
        ),
        "with the same settings in another order, of which the last one counts": asked(
            "optimizer.momentum=0", "optimizer.lr=0.1"
        ),
    }
    for words, study in differs.items():
        with pytest.raises(ValueError) as refused:
            read_results(study, tmp_path / "out")
        said = f"{run_dir} was run {words}; give another folder with --out, or delete that one"
        assert str(refused.value) == said


@pytest.mark.parametrize("missing", ["during_seconds", "config", "acc"])
def test_a_summary_without_what_the_page_needs_is_refused_in_one_sentence(missing: str, file: Path, tmp_path: Path):
    study = load_study(str(file)).with_seeds([0])
    run_study(study, tmp_path / "out", launch, lambda line: None)
    run_dir = tmp_path / "out" / study.runs[0].folder
    summary = json.loads((run_dir / "summary.json").read_text())
    del summary[missing]
    (run_dir / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=f"summary.json lacks {missing}, which the page .* delete {run_dir}, and"):
        read_results(study, tmp_path / "out")
    if missing == "during_seconds":  # which is of no use without a target
        file.write_text(STUDY.replace("target: 0.21\n", ""))
        assert read_results(load_study(str(file)).with_seeds([0]), tmp_path / "out")[0].status == "done"


WRONG = {
    "points: [er]": r"points must be a mapping, got \['er'\]",
    "point: {}": "a study has no key 'point'; its keys are title, settings",
    "seeds: [0, -1]": "seeds must be whole numbers of at least 0, got -1",
    "ranks: two": "ranks must be whole numbers of at least 1, got 'two'",
    "target: high": "target must be a number, such as 0.7 for an accuracy of 70 %, got 'high'",
    "settings: [strategy]": r"settings must be a list of key=value, got \['strategy'\]",
    "vary: {rehearsal.capacity: 3}": "vary.rehearsal.capacity must be a list of values, got 3",
    "settings: [strategy=erx]": r"point 'made': .*strategy=erx",
    "- a": "must be a mapping with the keys",
    "a: [": "cannot be read",
}


@pytest.mark.parametrize("content", WRONG)
def test_a_wrong_file_is_refused_in_one_line_before_anything_starts(content: str, file: Path, tmp_path: Path, capsys):
    file.write_text(content)
    assert main([str(file), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert re.search(WRONG[content], error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_command_lines_are_refused(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cases = {
        ("lowerupper",): "there is no study 'lowerupper': choose",
        ("lower_upper", "--seeds=a"): "--seeds must be whole numbers",
        ("lower_upper", "--sedes=1"): "--sedes=1 is neither an option",
        ("lower_upper", "--page"): "holds no run of the study lower_upper",
    }
    for arguments, expected in cases.items():
        assert main(arguments) == 1
        assert expected in capsys.readouterr().err
    assert main([]) == 0
    helped = capsys.readouterr().out
    assert all(name in helped for name in study_files())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "extra", "refused"),
    [
        (
            "lower_upper",
            "strategy=er_ace",
            "the command line: strategy=er_ace .* the study lower_upper compares runs by it",
        ),
        ("buffer_size", "rehearsal.capacity=50", "rehearsal.capacity=50 cannot be set here"),
        ("buffer_size", "seed=3", "seed=3 cannot be set here: .* --seeds"),
        ("buffer_size", "name=mine", "name=mine cannot be set here: each run is named"),
        ("points: {a b: [strategy=er], a-b: [strategy=finetune]}", "", "'a b' and 'a-b' would share the folder a-b"),
        ("vary: {rehearsal.capacity: [5, 5]}", "", "would share the folder made-capacity=5"),
        (
            "points: {a: [optimizer.lr=1]}\nvary: {optimizer.lr: [2]}",
            "",
            "optimizer.lr=1 cannot be set here: vary sets it",
        ),
        ("settings: [seed=2]", "", "seed=2 cannot be set here"),
    ],
)
def test_runs_that_would_not_be_what_their_points_say_are_refused(name, extra, refused, file: Path):
    if ":" in name:
        file.write_text(name)
        name = str(file)
    with pytest.raises(ValueError, match=refused):
        load_study(name, [extra] if extra else [])


def test_what_is_not_this_studys_is_refused_rather_than_mixed(file: Path, tmp_path: Path):
    study = load_study(str(file)).with_seeds([0])
    run_study(study, tmp_path / "out", launch, lambda line: None)
    with pytest.raises(ValueError, match="holds the study made, not other; give another folder"):
        read_results(dataclasses.replace(study, name="other"), tmp_path / "out")
    run_dir = tmp_path / "out" / study.runs[0].folder
    made = json.loads((run_dir / "summary.json").read_text())
    (run_dir / "summary.json").write_text(json.dumps({**made, "world_size": 3}))
    with pytest.raises(ValueError, match="was run on 3 ranks, the study asks for 1; give another folder"):
        read_results(study, tmp_path / "out")
    (run_dir / "study_run.json").unlink()
    with pytest.raises(ValueError, match="holds a run that no study has started"):
        read_results(study, tmp_path / "out")


def test_settings_that_mean_something_else_today_are_refused(file: Path, tmp_path: Path):
    study = load_study(str(file))
    run = dataclasses.replace(study, points=study.points[:1]).runs[1]  # seed 1; the configurations have seed 0
    configs = check_study(dataclasses.replace(study, points=(run.point,)))
    config = dataclasses.asdict(configs[run.point.label])
    results = [Result(run, "done", {"config": {**config, "seed": 1}})]
    require_same_configs(results, configs, tmp_path)
    config["training"]["epochs"] += 1
    with pytest.raises(ValueError, match=r"seed-1 was made with training.epochs=\d+, this run has .*--out, or delete"):
        require_same_configs(results, configs, tmp_path)
