"""A step's parts: they add up to what was measured, and a resumed run goes on counting."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from training.parts import Recording, small_dataset, small_trainer

from drb import Rehearsal
from drb.training import Monitor
from drb.training.reporting.breakdown import ROUND, TRAINING, Breakdown, Stopwatch


def trained(asynchronous):
    with Rehearsal(capacity=8, exemplars=4, asynchronous=asynchronous, verbose=False) as rehearsal:
        trainer = small_trainer(small_dataset(80), Recording(base="er"), rehearsal=rehearsal, batch_size=10)
        trainer.run()
        return trainer, rehearsal.stats(), trainer.progress.breakdown.summary(trainer.steps)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_parts_add_up_to_the_training_time(asynchronous):
    trainer, stats, told = trained(asynchronous)
    assert tuple(told["training"]) == TRAINING
    assert tuple(told["round"]) == ROUND
    assert all(seconds >= 0 for seconds in told["training"].values())
    assert sum(told["training"].values()) + told["setup"] == pytest.approx(trainer.progress.clock.seconds)
    assert sum(told["round"].values()) == pytest.approx(stats["round_seconds"])
    inline = told["training"]["round"]
    assert inline == 0 if asynchronous else inline >= stats["round_seconds"]
    extend = sum(told["training"][name] for name in ("wait", "round", "admission", "copy"))
    assert extend == pytest.approx(stats["extend_seconds"])


def test_a_run_that_goes_on_with_another_engine_keeps_what_was_measured_apart():
    def seen(rehearsal, step):
        ids = torch.arange(step * 4, step * 4 + 4)
        rehearsal.extend({"x": torch.zeros(4, 2), "label": ids % 2, "sample_id": ids})

    with Rehearsal(8, 4, asynchronous=True, verbose=False) as before:
        for step in range(20):
            seen(before, step)
        state = before.state_dict()
    with Rehearsal(8, 4, asynchronous=False, verbose=False) as after:
        after.load_state_dict(state)
        seen(after, 20)
        stats = after.stats()
    assert state["stats"]["inline_seconds"] == 0
    assert 0 < stats["round_seconds"] - state["stats"]["round_seconds"] <= stats["inline_seconds"]


def test_rounds_between_steps_are_no_part_of_extend():
    with Rehearsal(8, 4, asynchronous=False, verbose=False) as rehearsal:
        trainer = small_trainer(small_dataset(80), Recording(base="er"), rehearsal=rehearsal, batch_size=10)
        trainer.run()
        before = trainer.progress.breakdown.totals()
        for sample in range(5):
            rehearsal.forget([sample])  # and fetch anew
        after = trainer.progress.breakdown.totals()
    assert all(after[name] == before[name] for name in ("round", "copy"))
    assert after["rows"] > before["rows"]


def test_without_rehearsal_there_is_no_round():
    trainer = small_trainer(small_dataset(40), Recording(base="finetune"), batch_size=10)
    trainer.run()
    told = trainer.progress.breakdown.summary(trainer.steps)
    assert told["round"] is None
    assert tuple(told["training"]) == ("load", "copy", "train")
    assert told["training"]["load"] > 0


class FakeRehearsal:
    """Whose statistics are what a test says."""

    def __init__(self) -> None:
        self.now = {"asynchronous": True}

    def stats(self):
        return self.now


def test_intervals_are_means_per_step_and_go_on_after_a_resume():
    clock, rehearsal = Stopwatch(), FakeRehearsal()
    breakdown = Breakdown(clock, rehearsal)
    clock.load_state_dict({"wall": 1.0, "cpu": 0.0})
    rehearsal.now |= {"extend_seconds": 0.2, "wait_seconds": 0.05, "fetch_seconds": 0.3, "index_seconds": 0.1}
    breakdown.loader.seconds = 0.1
    first = breakdown.interval(10)
    assert first["breakdown/load_ms"] == pytest.approx(10)
    assert first["breakdown/train_ms"] == pytest.approx(70)
    assert first["breakdown/rows_ms"] == pytest.approx(20)
    assert "breakdown/setup_ms" not in first

    breakdown.loader.seconds = 0.15
    resumed = Breakdown(clock, rehearsal)
    resumed.load_state_dict(breakdown.state_dict())
    clock.load_state_dict({"wall": 2.0, "cpu": 0.0})
    second = resumed.interval(15)
    assert second["breakdown/load_ms"] == pytest.approx(10)
    assert second["breakdown/train_ms"] == pytest.approx(190)
    assert second["breakdown/wait_ms"] == 0
    assert resumed.summary(15)["training"]["load"] == 0.15


def test_a_resumed_trainer_knows_the_seconds_before():
    trainer, resumed = (small_trainer(small_dataset(40), Recording(base="finetune"), batch_size=10) for _ in range(2))
    trainer.run()
    resumed.load_state_dict(trainer.state_dict())
    before, after = (one.progress.breakdown.summary(one.steps) for one in (trainer, resumed))
    assert after == before
    assert before["training"]["load"] > 0


def test_what_is_logged_has_every_part():
    class Points(Monitor):
        metrics: ClassVar[list[dict[str, float]]] = []

        def log_interval(self, metrics, rehearsal, step):
            self.metrics.append(metrics)

    points = Points()
    with Rehearsal(capacity=8, exemplars=4, verbose=False) as rehearsal:
        trainer = small_trainer(
            small_dataset(80), Recording(base="er"), rehearsal=rehearsal, batch_size=10, log_every=4
        )
        trainer._reporter.monitor = points
        trainer.run()
    assert len(points.metrics) == trainer.steps // 4
    for metrics in points.metrics:
        assert {f"breakdown/{name}_ms" for name in (*TRAINING, *ROUND)} <= metrics.keys()
