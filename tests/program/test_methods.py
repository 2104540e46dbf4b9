"""Methods by configuration alone: trained on two ranks, stopped at a checkpoint, resumed, also on another number."""

from __future__ import annotations

import json
import signal

import pytest
from programs import ROOT, Ended, start_ranks

SMALL = [
    "experiment=none",
    "dataset=synthetic",
    "dataset.image_shape=[1,4,4]",
    "dataset.num_classes=4",
    "dataset.num_train=176",
    "dataset.num_test=40",
    "scenario.num_tasks=2",
    "training.epochs=4",
    "training.batch_size=8",
    "training.log_every=1",
    "rehearsal.capacity=20",
    "rehearsal.exemplars=4",
    "tracking=none",
    "threads=1",
]
DEFLATE = ["rehearsal.codec=deflate", "rehearsal.codec_options.bits=4", "rehearsal.codec_options.max_bytes=10"]
DERPP = ["strategy=my_methods.DarkExperienceReplayPlusPlus", "strategy.alpha=0.3", "strategy.beta=0.7", *DEFLATE]
MIR = ["strategy=mir", "strategy.candidates=8"]
EWC_EMA = [
    "strategy=er",
    "terms=[ewc,ema,balanced_softmax]",
    "terms.balanced_softmax.prior=tasks",
    "terms.ewc.strength=5",
    "terms.ema.momentum=0.9",
]
EQUAL = ("accuracy_matrix", "acc", "bwt", "forgetting", "baselines", "loss_matrix", "steps", "samples", "cost")


@pytest.fixture
def methods(tmp_path):
    """A folder with a module of the user's own."""
    source = (ROOT / "tests/training/method/reference.py").read_text()
    (tmp_path / "my_methods.py").write_text(source)
    return tmp_path


def train(folder, name, method, *arguments, ranks=2) -> list[Ended]:
    return [ran.wait(90) for ran in begin(folder, name, method, *arguments, ranks=ranks)]


def begin(folder, name, method, *arguments, ranks=2):
    return start_ranks(ranks, [*SMALL, *method, f"hydra.run.dir={folder / name}", *arguments], folder)


def stop_in_the_second_task(folder, name, method):
    ran = begin(folder, name, method, "checkpoint.every_steps=3")
    ran[0].wait_for("after task 1")
    ran[0].signal(signal.SIGUSR2)
    ended = [each.wait(90) for each in ran]
    assert [each.code for each in ended] == [75, 75], ended


def summary(folder, name):
    return json.loads((folder / name / "summary.json").read_text())


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "method", [DERPP, pytest.param(MIR, marks=pytest.mark.full), EWC_EMA], ids=["derpp", "mir", "er + ewc + ema"]
)
def test_a_method_is_stopped_and_goes_on_to_the_same_end(methods, method):
    whole = train(methods, "whole", method)
    assert [ended.code for ended in whole] == [0, 0], whole
    stop_in_the_second_task(methods, "cut", method)
    resumed = train(methods, "cut", method)
    assert [ended.code for ended in resumed] == [0, 0], resumed
    assert "resumed from" in resumed[0].out
    first, second = (summary(methods, name) for name in ("whole", "cut"))
    assert [first[key] for key in EQUAL] == [second[key] for key in EQUAL]
    assert first["cost"]["rows_trained"] > first["samples"] / 2  # exemplars were trained on, too
    assert (first["cost"]["rows_forward"] > 0) == (method is MIR)


@pytest.mark.timeout(240)
def test_penalties_and_averages_go_on_with_fewer_ranks(methods):
    stop_in_the_second_task(methods, "run", EWC_EMA)
    (resumed,) = train(methods, "run", EWC_EMA, ranks=1)
    assert resumed.code == 0, resumed
    assert "resumed on 1 rank from 2" in resumed.out
    found = summary(methods, "run")
    assert found["samples"] == 4 * 176  # every epoch of both tasks was finished, no sample seen twice
    assert found["world_size"] == 1
