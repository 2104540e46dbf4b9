"""Variants from outside drb: a package with one of each kind, used by configuration alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import sys

import pytest
from programs import ROOT, start_ranks

from drb.buffer.admission import ADMISSIONS
from drb.program.config import check_config, compose_config
from drb.program.config.resume import require_same_config
from drb.runs.forget_command import main as forget
from drb.train import main

ENTRY_POINTS = """\
[drb.admissions]
first_come = my_variants:FirstCome
[drb.strategies]
doubled = my_variants:Doubled
[drb.schedules]
fading = my_variants:Fading
[drb.models]
linear = my_variants:Linear
"""
READING = """
from drb.buffer.admission.fifo import Fifo
from drb.training.strategies import Strategy

class Reading(Fifo):
    reads = ("logits",)

class Plain(Strategy):
    weight = 0.5
"""
CHOSEN = [
    "dataset=my_variants.Stripes",
    "scenario=my_variants.Chunks",
    "scenario.num_tasks=2",
    "strategy=doubled",
    "strategy.weight=1.5",
    "terms=[my_variants.Shrink]",
    "terms.Shrink.strength=0.001",
    "objective=my_variants.Sharper",
    "objective.temperature=0.5",
    "optimizer=my_variants.RmsProp",
    "optimizer.lr=0.003",
    "schedule=fading",
    "schedule.decay=0.99",
    "model=linear",
    "model.width=12",
    "tracking=my_variants.Lines",
    "tracking.plots=false",
    "rehearsal.admission=first_come",
    "rehearsal.admission_options.every=2",
    "rehearsal.proportions=my_variants.Tempered",
    "rehearsal.proportions_options.power=0.5",
    "rehearsal.exchange=my_variants.Plain",
]
SHORT = ["experiment=none", "training.epochs=4", "training.batch_size=8", "rehearsal.capacity=20", "threads=1"]


@pytest.fixture
def installed(tmp_path):
    """A folder with the package, as pip installs it."""
    folder = tmp_path / "site"
    info = folder / "my_variants-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "my_variants.py").write_text((ROOT / "examples/my_variants.py").read_text())
    (folder / "my_policies.py").write_text(READING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-variants\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture
def importable(installed, monkeypatch):
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr(ADMISSIONS, "_named", {})  # as in a new process
    yield
    sys.modules.pop("my_variants", None)


def train(folder, installed, *arguments):
    """Two ranks, in the folder of the package: `python -m` finds it there."""
    return start_ranks(2, [*SHORT, *CHOSEN, f"hydra.run.dir={folder}", *arguments], installed)


def test_one_of_each_kind_trains_is_stopped_and_goes_on_by_configuration_alone(tmp_path, installed):
    often = ["checkpoint.every_steps=3", "training.log_every=1"]
    whole = [ran.wait(60) for ran in train(tmp_path / "whole", installed)]
    assert [ended.code for ended in whole] == [0, 0], whole
    cut = train(tmp_path / "cut", installed, *often)
    cut[0].wait_for("after task 1")
    cut[0].signal(signal.SIGUSR2)
    stopped = [ran.wait(60) for ran in cut]
    assert [each.code for each in stopped] == [75, 75], stopped
    ended = [ran.wait(60) for ran in train(tmp_path / "cut", installed, *often)]
    assert [each.code for each in ended] == [0, 0], ended
    assert "resumed from" in ended[0].out
    assert "my_variants.FirstCome, my_variants.Tempered" in whole[0].err
    assert "accuracy/mean" in (tmp_path / "whole" / "metrics.txt").read_text()
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "cut")]
    assert summaries[0]["rehearsal"]["exchange"] == "collective"
    same = ("strategy", "accuracy_matrix", "acc", "bwt", "forgetting", "baselines", "task_names", "steps", "samples")
    assert [summaries[0][key] for key in same] == [summaries[1][key] for key in same]


def test_a_run_in_one_line_without_a_process(importable, tmp_path):
    config, _ = compose_config([*SHORT, *CHOSEN], "id")
    check_config(config, world_size=2)
    assert dataclasses.asdict(config)["model"] == {"name": "linear", "init": "random", "head": "grows", "width": 12}


WRONG = [
    ("model=my_variants.Linear", "model.depth=3", "did you mean model.width? model has head, init, name, width"),
    ("model=my_variants.Linear", "model.width=-1", "model.width must be at least 0, got -1"),
    ("model=my_variants.Linear", "model.width=a", "model.width must be an integer, got 'a'"),
    ("model=my_variants.Liner", "", "my_variants has no Liner; did you mean Linear? expected a class derived from"),
    (
        "model=my_variants.FirstCome",
        "",
        "my_variants.FirstCome is no model; expected a class derived from drb",
    ),
    ("model=my_variants.np", "", "my_variants.np is no model but a module"),
    ("model=my_variant.Linear", "", "cannot be imported: No module named 'my_variant'"),
    ("scenario=my_variants.Chunks", "", "scenario.num_tasks must be given"),
    ("rehearsal.admission=my_variants.Linear", "", "rehearsal.admission: my_variants.Linear is no admission policy"),
    ("rehearsal.admission=first_come", "rehearsal.admission_options.evry=2", "has no option evry; did you mean every?"),
    (
        "rehearsal.admission=first_come",
        "rehearsal.admission_options.every=0",
        "FirstCome.every must be at least 1, got",
    ),
    ("rehearsal.proportions=my_variants.Tempered", "", "needs the option power"),
    ("strategy=doubled", "strategy.weight=0", "strategy.weight must be above 0, got 0.0"),
    ("strategy=doubled", "strategy.wait=1", "did you mean strategy.weight? strategy has name, weight"),
    (
        "strategy=my_variants.Shrink",
        "",
        "my_variants.Shrink is no strategy; expected a class derived from drb",
    ),
    ("terms=[my_variants.Shrink]", "terms.Shrink.strength=-1", "terms.Shrink.strength must be at least 0, got -1.0"),
    ("terms=[my_variants.Shrink]", "++terms.Shrink.odd=1", "there is no setting terms.Shrink.odd"),
    ("terms=[my_variants.Shrink,my_variants.Shrink]", "", "the term Shrink is named twice; give each term once"),
    ("terms=[my_variants.Doubled]", "", "my_variants.Doubled is no term; expected a class derived from drb.training.t"),
    ("strategy=Doubled", "", "strategy=Doubled is unknown; did you mean doubled? choose agem,"),
    ("strategy=my_variants:Doubled", "", "my_variants:Doubled is unknown; did you mean my_variants.Doubled? choose"),
    ("model=Linear", "", "or give the dotted path of a class derived from drb.training.models.Model"),
    (
        "strategy=my_policies.Plain",
        "strategy.weight=2",
        "Plain.weight is a plain attribute: annotate it",
    ),
    ("terms=[my_variants:Shrink]", "", "there is no term my_variants:Shrink; did you mean my_variants.Shrink?"),
    ("terms=[Ewc]", "", "terms=[Ewc]: there is no term Ewc; did you mean ewc? choose"),
    ("terms=[3]", "", "terms=[3]: a term is a name or the dotted path of a class, got 3"),
    (
        "terms=[my_variants.Shrink]",
        "terms.my_variants.Shrink.strength=1",
        "options of a term belong to the name of its class: write terms.Shrink.strength=1",
    ),
    (
        "terms=[my_variants.Shrink]",
        "terms.ewc.strength=1",
        "the term ewc is not chosen (Shrink is); write 'terms=[my_variants.Shrink,ewc]' to add it",
    ),
    ("objective=my_variants.Shrink", "", "my_variants.Shrink is no objective"),
    ("schedule=fading", "schedule.decay=2", "schedule.decay must be above 0 and at most 1, got 2.0"),
    (
        "schedule=my_variants.RmsProp",
        "",
        "my_variants.RmsProp is no schedule; expected a class derived from",
    ),
    (
        "optimizer=my_variants.RmsProp",
        "optimizer.momentum=0.9",
        "only optimizer=sgd has the setting optimizer.momentum",
    ),
    (
        "rehearsal.admission=my_policies.Reading",
        "",
        "rehearsal.admission=my_policies.Reading reads logits: there is no such field, the samples of dataset=digits",
    ),
    ("rehearsal.admission=first_come", "rehearsal.candidates=2", "candidates=2 has no meaning for admission="),
]


@pytest.mark.parametrize(("choice", "option", "line"), WRONG)
def test_one_line_says_what_is_wrong(importable, choice, option, line, capsys):
    assert main([choice, *filter(None, [option])]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"drb: error: .*\n", err), err
    assert line in err


def test_a_configuration_file_of_the_users_may_name_a_class(importable, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /model: my_variants.Linear]\nmodel: {width: 5}\n"
    )
    config, _ = compose_config([f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "experiment=mine"], "id")
    assert (config.model.name, config.model.width) == ("my_variants.Linear", 5)


def test_forgetting_in_a_run_is_told_the_class_of_its_policy(importable, tmp_path, monkeypatch, capsys):
    policy = ["rehearsal.admission=my_variants.FirstCome", "dataset=synthetic", "dataset.image_shape=[1,4,4]"]
    small = ["dataset.num_train=64", "dataset.num_test=20", "training.epochs=1", "scenario.num_tasks=2"]
    assert main([*SHORT, *policy, *small, "tracking=none", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    monkeypatch.setattr(ADMISSIONS, "_named", {})  # as in a new process
    capsys.readouterr()
    arguments = [str(tmp_path / "run"), "--where", "label=1"]
    assert forget(arguments) == 1
    assert capsys.readouterr().err.endswith("what code is run; add --admission my_variants.FirstCome\n")
    assert forget([*arguments, "--admission", "my_variants.Linear"]) == 1
    assert "my_variants.Linear is no admission policy; expected a class derived from" in capsys.readouterr().err
    assert forget([*arguments, "--admission", "my_variants.FirstCome"]) == 0
    assert re.search(r"[1-9]\d* stored exemplars were removed", capsys.readouterr().out)


def test_a_run_that_goes_on_names_what_is_missing(importable):
    saved, _ = compose_config([*SHORT, *CHOSEN, "model=my_variants.Linear"], "id")
    others = [argument for argument in CHOSEN if not argument.startswith("model")]
    now, _ = compose_config([*SHORT, *others, "model=mlp"], "id")
    line = (
        "the run was made with model my_variants.Linear, which is not part of drb and counts only if you name it: add "
        "model=my_variants.Linear to go on"
    )
    with pytest.raises(ValueError, match=re.escape(line)):
        require_same_config(dataclasses.asdict(saved), dataclasses.asdict(now), "the run")


@pytest.mark.parametrize(
    ("proportions", "entries", "message"),
    [
        ("schedule", ([[1]], [[1], [1, 1]]), None),
        ("schedule", ([[1], [1, 1]], [[1]]), r"proportions_options.shares=\[\[1\], \[1, 1\]\], this run has \[\[1\]\]"),
        ("my_variants.Shares", ([1], [1, 2]), r"shares=\[1\], this run has \[1, 2\]"),
        ("my_variants.Shares", (1, 2), "shares=1, this run has 2"),
    ],
)
def test_only_a_schedule_goes_on_with_more_shares(proportions, entries, message):
    then, now = (
        {"rehearsal": {"proportions": proportions, "proportions_options": {"shares": shares}}} for shares in entries
    )
    expected = contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message)
    with expected:
        require_same_config(then, now, "the run")


def test_a_saved_name_imports_nothing(importable):
    with pytest.raises(ValueError, match="with the admission policy my_variants.FirstCome, which is not part"):
        ADMISSIONS.recall("my_variants.FirstCome")
    assert "my_variants" not in sys.modules
    ADMISSIONS.find("my_variants.FirstCome")
    assert ADMISSIONS.recall("my_variants.FirstCome").__name__ == "FirstCome"
