"""What becomes a chart: few enough to look at, the rest is in the summary."""

from __future__ import annotations

from drb.training.reporting.charts import constants, interval_charts, task_charts


class FakeRehearsal:
    def stats(self):
        return {
            "exemplars": 7,
            "capacity_total": 500,
            "asynchronous": True,
            "stored_total": 400,
            "round_seconds": 4.0,
            "wait_seconds": 0.5,
            "inline_seconds": 0.5,
        }

    def counts(self):
        return {3: 10, 7: 30}


def test_a_point_of_training_has_no_constants_and_no_zeros():
    metrics = {"train/loss": 1.0, "train/nonfinite_steps": 0, "train/rows_trained": 9.0, "breakdown/load_ms": 1.0}
    charts = interval_charts(metrics | {"breakdown/rows_ms": 1.0, "train/penalty/ewc": 0.1}, FakeRehearsal())
    assert charts == {
        "train/loss": 1.0,
        "train/penalty/ewc": 0.1,
        "breakdown/load_ms": 1.0,
        "rehearsal/stored_total": 400.0,
        "rehearsal/overlapped_share": 0.75,
        "rehearsal/fewest_per_stratum": 10,
        "rehearsal/most_per_stratum": 30,
    }
    assert interval_charts({"train/nonfinite_steps": 2}, None) == {"train/nonfinite_steps": 2}
    assert constants(FakeRehearsal()) == {
        "rehearsal_settled": {"exemplars": 7, "capacity_total": 500, "asynchronous": True}
    }


def test_an_evaluation_has_a_chart_per_task_of_the_metric_that_counts_alone():
    tasks = {f"accuracy/task_{number}": number / 10 for number in range(1, 10)}
    others = {"loss/task_1": 1.0, "loss/task_2": 3.0, "bwt": -0.1, "fwt": 0.0, "cost/rows_trained": 5.0}
    charts = task_charts({**tasks, **others, "accuracy/mean": 0.5, "time/checkpoint_seconds": 0.0}, "accuracy")
    assert charts == {
        **{f"accuracy/task_{number}": number / 10 for number in range(1, 7)},
        "accuracy/mean": 0.5,
        "test/loss": 2.0,
        "transfer/bwt": -0.1,
    }
