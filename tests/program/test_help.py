"""`--help` of the commands names what can be chosen, and starts nothing."""

from __future__ import annotations

import re
import runpy

import pytest

from drb.cli import main
from drb.program.config import check_config, compose_config
from drb.program.config.compose import config_folder
from drb.program.config.variants import GROUPS
from drb.training.terms import TERMS


@pytest.fixture
def train_help(capsys) -> str:
    assert main(["train", "--help"]) == 0
    return capsys.readouterr().out


def test_the_help_of_train_names_every_group_choice_and_experiment(train_help):
    lines = train_help.splitlines()
    for group, kind in GROUPS.items():
        assert re.search(rf"^    {group} .*", train_help, re.MULTILINE)
        assert all(re.search(rf"\b{name}\b", train_help) for name in kind.variants.own), group
    for folder in config_folder().iterdir():
        if folder.name == "study":  # `drb study --help` names them
            continue
        for file in folder.glob("*.yaml") if folder.is_dir() else ():
            assert any(re.search(rf"\b{file.stem}\b", line) for line in lines), file
    assert all(name in train_help for name in TERMS.own)
    assert max(map(len, lines)) <= 101


def test_its_three_examples_are_valid(train_help):
    examples = re.findall(r"^    (?:torchrun .* -m drb\.train|drb train) (\w+=.*)$", train_help, re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        config, _ = compose_config(example.split(), "id")
        check_config(config, world_size=1)


def test_the_help_of_demo_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for option in ("--help", "-h"):
        assert main(["demo", option]) == 0
        assert "usage: drb demo" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_of_the_demo_is_said_once_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "epochs=3"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "did you mean training.epochs?" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("verfy", "verify")])
def test_a_misspelt_command_is_recognised(typed, meant, capsys):
    assert main([typed]) == 1
    assert f"did you mean drb {meant}?" in capsys.readouterr().err


def test_python_m_drb_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["drb", "forgot"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("drb", run_name="__main__")
    assert ended.value.code == 1
    assert "did you mean drb forget?" in capsys.readouterr().err
