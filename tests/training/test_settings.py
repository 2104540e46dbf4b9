"""Learning rates: scaling with the ranks and schedules as functions of the epochs passed."""

from __future__ import annotations

import pytest

from drb.options import check_settings
from drb.training import OptimizerSettings, ScheduleSettings, TrainingSettings, split_evenly
from drb.training.optim import scaled_rate
from drb.training.schedule import rate_factor


@pytest.mark.parametrize(("rule", "rate"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_the_rate_grows_with_the_ranks_as_told(rule, rate):
    assert scaled_rate(OptimizerSettings(lr=0.1, lr_scaling=rule), 4) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (ScheduleSettings(), {0: 1, 7.5: 1}),
        (ScheduleSettings(warmup_epochs=2), {0: 0, 0.5: 0.25, 1: 0.5, 2: 1, 9: 1}),
        (ScheduleSettings(warmup_epochs=2, warmup_start=0.5), {0: 0.5, 1: 0.75, 2: 1}),
        (ScheduleSettings("step", milestones=[2, 4]), {0: 1, 1.99: 1, 2: 0.1, 3.9: 0.1, 4: 0.01}),
        (ScheduleSettings("cosine"), {0: 1, 5: 0.5, 10: 0, 12: 0}),
        (ScheduleSettings("cosine", final_factor=0.2), {0: 1, 5: 0.6, 10: 0.2}),
        (ScheduleSettings("cosine", span="run", total_epochs=20), {0: 1, 10: 0.5, 20: 0}),
        (ScheduleSettings("cosine", warmup_epochs=5), {2.5: 0.5 * 0.853553, 5: 0.5}),
    ],
)
def test_factors_of_a_task_of_ten_epochs(schedule, factors):
    for epochs, factor in factors.items():
        assert rate_factor(schedule, epochs, 10) == pytest.approx(factor, abs=1e-6)


def test_a_total_is_split_evenly_or_refused():
    assert TrainingSettings(batch_size=12, batch_scope="total").rows_per_rank(4) == 3
    assert TrainingSettings(batch_size=12).rows_per_rank(4) == 12
    with pytest.raises(ValueError, match="x=10 in total cannot be shared evenly by 4 ranks; choose a multiple of 4"):
        split_evenly("x", 10, 4)


def test_limits_name_the_setting():
    with pytest.raises(ValueError, match=r"^a\.momentum must be at least 0 and below 1, got 1\.5$"):
        check_settings(OptimizerSettings(momentum=1.5), "a.")
    with pytest.raises(ValueError, match=r"^milestones must be above 0, got \[1, -2\]$"):
        check_settings(ScheduleSettings(milestones=[1, -2]))
