"""exemplars=auto:accuracy: how r follows what is right, and what is said if nothing helps."""

from __future__ import annotations

import numpy as np
import pytest

from drb.rehearsal.auto_accuracy import WINDOW, AutoAccuracy
from drb.rehearsal.auto_setting import AutoSetting
from drb.sampling.feedback import Feedback


def tell(auto: AutoAccuracy, right: float, rows: int = 64, times: int = 1) -> AutoAccuracy:
    """Feedback of rows of which this share is right."""
    for _ in range(times):
        auto.observe(Feedback(np.array([0]), np.array([rows]), np.zeros(1), np.array([round(right * rows)])))
    return auto


def test_the_baseline_is_the_level_of_the_first_window_or_that_at_a_tasks_begin() -> None:
    auto = tell(AutoAccuracy(32, 0.02), 0.75, times=WINDOW // 64 - 1)
    assert (auto.level, auto.baseline, auto.chosen) == (None, None, 32)
    tell(auto, 0.75)
    assert (auto.level, auto.baseline) == (0.75, 0.75)
    tell(auto, 0.5, times=200)
    auto.begin_task()
    assert auto.baseline == auto.level == pytest.approx(0.5, abs=1e-6)


def test_r_falls_while_nothing_is_lost_and_rises_when_it_is() -> None:
    auto = tell(AutoAccuracy(32, 0.02), 0.75, times=WINDOW // 64)
    falling = [tell(auto, 0.75).chosen for _ in range(80)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == 1
    rising = [tell(auto, 0.5).chosen for _ in range(80)]
    assert rising == sorted(rising)
    assert rising[-1] == 32


def test_what_a_task_brings_does_not_hide_what_is_lost() -> None:
    def both(auto: AutoAccuracy, old: int, times: int) -> AutoAccuracy:
        for _ in range(times):
            auto.observe(Feedback(np.array([0, 5]), np.array([32, 96]), np.zeros(2), np.array([old, 96])))
        return auto

    auto = tell(AutoAccuracy(32, 0.02), 0.75, times=40)
    auto.begin_task()
    both(auto, 16, times=80)
    assert (auto.level, auto.chosen) == (pytest.approx(0.5, abs=0.01), 32)


def test_rows_count_not_rounds() -> None:
    many = tell(tell(AutoAccuracy(32, 0.1), 0.75, times=8), 0.75, rows=4, times=128)
    few = tell(tell(AutoAccuracy(32, 0.1), 0.75, times=8), 0.75, rows=64, times=8)
    assert many.chosen == pytest.approx(few.chosen, abs=1)
    assert many.chosen < 32


def test_what_r_max_does_not_keep_is_said_once_in_a_task() -> None:
    said: list[str] = []
    auto = AutoAccuracy(8, 0.01)
    auto.say = said.append
    tell(auto, 0.75, times=8)
    tell(auto, 0.5, times=400)
    assert said == [
        "exemplars=auto:accuracy: even 8 exemplars per rank and step do not keep the share of right rehearsed rows "
        f"within 0.01 of 0.750: it is {said[0].split('it is ')[1][:5]}; raise the limit, or allow more"
    ]
    auto.begin_task()
    tell(auto, 0.25, times=400)
    assert len(said) == 2


def test_a_state_goes_on_as_if_nothing_had_happened() -> None:
    auto, resumed = tell(AutoAccuracy(32, 0.02), 0.75, times=30), AutoAccuracy(32, 0.02)
    resumed.load_state_dict(auto.state_dict())
    for right in np.random.default_rng(0).random(50):
        assert tell(auto, right).chosen == tell(resumed, right).chosen
    assert str(auto.state_dict()) == str(resumed.state_dict())
    other = AutoAccuracy(32, 0.02)
    other.load_state_dict({"exemplars": 4})  # of exemplars=auto
    assert str(other.state_dict()) == str(AutoAccuracy(32, 0.02).state_dict())


@pytest.mark.parametrize(
    ("exemplars", "expected"),
    [
        ("auto", AutoSetting()),
        ("auto:64", AutoSetting(64)),
        ("auto:accuracy", AutoSetting(None, 0.01)),
        ("auto:accuracy:16", AutoSetting(16, 0.01)),
        ("auto:accuracy:0.005", AutoSetting(None, 0.005)),
        ("auto:accuracy:.02:16", AutoSetting(16, 0.02)),
    ],
)
def test_what_auto_may_ask_for(exemplars: str, expected: AutoSetting) -> None:
    assert AutoSetting.parse(exemplars) == expected
    assert AutoSetting.parse(expected.with_limit(7)) == AutoSetting(7, expected.epsilon)


@pytest.mark.parametrize("exemplars", ["auto:", "auto:0", "auto:accuracy:1.5", "auto:accuracy:x:3"])
def test_other_forms_are_refused(exemplars: str) -> None:
    with pytest.raises(ValueError, match="exemplars must be an integer of at least 1, auto, or auto:N"):
        AutoSetting.parse(exemplars)


def test_nothing_that_may_be_lost_is_refused() -> None:
    with pytest.raises(ValueError, match="the accuracy that may be lost must be above 0"):
        AutoSetting.parse("auto:accuracy:0.0")
