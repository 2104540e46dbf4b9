"""What a run prints where there is no terminal, and what it is called."""

from __future__ import annotations

import json
import re

import pytest

import drb.program.console as console
from drb.train import main

TINY = ["experiment=digits", "tracking=none", "scenario.num_tasks=2", "training.epochs=1"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def start(*arguments: str) -> tuple[str, list[str]]:
        monkeypatch.chdir(tmp_path)
        before = set((tmp_path / "runs").glob("*"))
        assert main([*TINY, *arguments]) == 0
        [folder] = set((tmp_path / "runs").glob("*")) - before
        name = json.loads((folder / "summary.json").read_text())["name"]
        assert folder.name.startswith(f"{name.replace(' ', '-')}-2")  # and the time
        return name, capsys.readouterr().out.splitlines()

    return start


def test_progress_is_printed_without_a_terminal_and_tasks_count_from_1(run, monkeypatch):
    monkeypatch.setattr(console, "FIRST_LINE_S", 0.0)
    _, lines = run()
    progress = [line for line in lines if "minibatches" in line]
    expected = r"step 1, epoch 1 of 1, 1 of \d+ minibatches \(\d+%\), [\d,]+ samples/s, about \d+ s left"
    assert re.match(rf"task 1 \(classes 0,1\): {expected}", progress[0])
    assert [line[:12] for line in lines if line.startswith("after")] == ["after task 1", "after task 2"]


def test_a_short_run_prints_no_progress(run):
    assert not any("minibatches" in line for line in run()[1])


@pytest.mark.parametrize(
    ("arguments", "name", "headline"),
    [
        ([], "er", "er on digits (class_incremental)"),
        (["name=from now on"], "from now on", "from now on: er on digits (class_incremental)"),
        (["name=v1.2", "strategy=finetune"], "v1.2", "v1.2: finetune on digits"),
    ],
)
def test_a_run_has_one_name(run, arguments, name, headline):
    found, lines = run(*arguments)
    assert found == name
    assert any(line.startswith(headline) for line in lines)
