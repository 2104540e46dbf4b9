"""Learning rates: scaling with the ranks and schedules as functions of the epochs passed."""

from __future__ import annotations

import pytest

from drb.training import Constant, Cosine, Sgd, Step, TrainingSettings, split_evenly


@pytest.mark.parametrize(("rule", "rate"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_the_rate_grows_with_the_ranks_as_told(rule, rate):
    assert Sgd(lr=0.1, lr_scaling=rule).scaled_rate(4) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), {0: 1, 7.5: 1}),
        (Constant(warmup_epochs=2), {0: 0, 0.5: 0.25, 1: 0.5, 2: 1, 9: 1}),
        (Constant(warmup_epochs=2, warmup_start=0.5), {0: 0.5, 1: 0.75, 2: 1}),
        (Step(milestones=[2, 4]), {0: 1, 1.99: 1, 2: 0.1, 3.9: 0.1, 4: 0.01}),
        (Cosine(), {0: 1, 5: 0.5, 10: 0, 12: 0}),
        (Cosine(final_factor=0.2), {0: 1, 5: 0.6, 10: 0.2}),
        (Cosine(span="run", total_epochs=20), {0: 1, 10: 0.5, 20: 0}),
        (Cosine(warmup_epochs=5), {2.5: 0.5 * 0.853553, 5: 0.5}),
    ],
)
def test_factors_of_a_task_of_ten_epochs(schedule, factors):
    for epochs, factor in factors.items():
        assert schedule.rate_factor(epochs, 10) == pytest.approx(factor, abs=1e-6)


def test_a_total_is_split_evenly_or_refused():
    assert TrainingSettings(batch_size=12, batch_scope="total").rows_per_rank(4) == 3
    assert TrainingSettings(batch_size=12).rows_per_rank(4) == 12
    with pytest.raises(ValueError, match="x=10 in total cannot be shared evenly by 4 ranks; choose a multiple of 4"):
        split_evenly("x", 10, 4)


def test_limits_name_the_setting():
    with pytest.raises(ValueError, match=r"^sgd\.momentum must be at least 0 and below 1, got 1\.5$"):
        Sgd(momentum=1.5)
    with pytest.raises(ValueError, match=r"^step\.milestones must be above 0, got \[1, -2\]$"):
        Step(milestones=[1, -2])
