"""Hand-computed matrices, and the mistakes that published code has made with them."""

import json

import pytest

from drb.training.evaluation.metrics import ScoreMatrix

R = [
    [0.90, 0.20, 0.10],
    [0.70, 0.80, 0.30],
    [0.60, 0.50, 1.00],
]
BASELINES = [0.15, 0.05, 0.10]


def filled(rows: list[list[float]], baselines: list[float] | None = None) -> ScoreMatrix:
    matrix = ScoreMatrix()
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            matrix.add(i, j, value)
    for j, value in enumerate(baselines or []):
        matrix.baseline(j, value)
    return matrix


def test_metrics_of_a_hand_computed_matrix():
    matrix = filled(R, BASELINES)
    assert matrix.acc() == pytest.approx((0.60 + 0.50 + 1.00) / 3)
    assert matrix.bwt() == pytest.approx(((0.60 - 0.90) + (0.50 - 0.80)) / 2)
    assert matrix.fwt() == pytest.approx(((0.20 - 0.05) + (0.30 - 0.10)) / 2)
    assert matrix.forgetting() == pytest.approx(((0.90 - 0.60) + (0.80 - 0.50)) / 2)


def test_forgetting_is_measured_from_the_best_and_not_from_the_diagonal():
    matrix = filled([[0.5], [0.9, 0.8], [0.6, 0.8, 0.7]])
    assert matrix.forgetting() == pytest.approx(((0.9 - 0.6) + (0.8 - 0.8)) / 2)
    assert matrix.bwt() == pytest.approx(((0.6 - 0.5) + (0.8 - 0.8)) / 2)


def test_forgetting_leaves_the_last_row_out_of_the_maximum():
    assert filled([[0.5], [0.9, 0.8]]).forgetting() == pytest.approx(0.5 - 0.9)


def test_forgetting_counts_accuracy_before_a_task_was_learnt_if_it_was_measured():
    assert filled([[0.5, 0.9], [0.5, 0.6], [0.5, 0.4, 0.7]]).forgetting() == pytest.approx(
        ((0.5 - 0.5) + (0.9 - 0.4)) / 2
    )


def test_fwt_compares_with_the_untrained_network_on_the_same_task():
    matrix = filled(R)
    assert matrix.fwt() is None  # a baseline that was never measured is not zero
    for j, value in enumerate(BASELINES):
        matrix.baseline(j, value)
    later = filled(R, [row[j] for j, row in enumerate(R)])  # the baseline taken from the trained network
    assert matrix.fwt() != later.fwt()


def test_fwt_does_not_need_the_first_baseline():
    matrix = filled(R)
    matrix.baseline(1, 0.05)
    matrix.baseline(2, 0.10)
    assert matrix.fwt() == pytest.approx(0.175)


def test_one_task_has_an_accuracy_and_nothing_else():
    matrix = filled([[0.7]], [0.1])
    assert matrix.acc() == 0.7
    assert (matrix.bwt(), matrix.fwt(), matrix.forgetting()) == (None, None, None)


def test_no_task_has_no_metric():
    matrix = ScoreMatrix()
    assert (matrix.acc(), matrix.bwt(), matrix.fwt(), matrix.forgetting()) == (None, None, None, None)
    assert matrix.rows() == []


def test_a_metric_with_an_entry_missing_is_unknown_and_not_an_average_of_the_rest():
    matrix = ScoreMatrix()
    matrix.add(0, 0, 0.9)
    matrix.add(1, 1, 0.8)  # task 0 was not evaluated after task 1
    assert (matrix.acc(), matrix.bwt(), matrix.forgetting()) == (None, None, None)
    assert matrix.rows() == [[0.9, None], [None, 0.8]]


def test_forgetting_needs_every_row_since_the_task_was_learnt():
    matrix = filled([[0.9], [0.7, 0.8], [0.6, 0.5, 1.0]])
    assert matrix.forgetting() is not None
    gap = ScoreMatrix()
    for i, j, value in [(0, 0, 0.9), (1, 1, 0.8), (2, 0, 0.6), (2, 1, 0.5), (2, 2, 1.0)]:
        gap.add(i, j, value)
    assert gap.forgetting() is None
    assert gap.bwt() == pytest.approx(-0.3)


def test_mean_after_each_task_covers_the_tasks_seen_by_then():
    matrix = filled(R)
    assert [matrix.mean_after(i) for i in range(3)] == pytest.approx([0.90, 0.75, 0.70])


def test_rows_are_json_with_null_where_nothing_was_evaluated():
    matrix = filled([[0.5, 0.25], [0.75, 1.0, 0.5]])
    assert json.loads(json.dumps(matrix.rows())) == [[0.5, 0.25, None], [0.75, 1.0, 0.5]]
    assert matrix.baselines() == []


def test_state_survives_json():
    matrix = filled(R, BASELINES)
    restored = ScoreMatrix()
    restored.load_state_dict(json.loads(json.dumps(matrix.state_dict())))
    assert restored.rows() == matrix.rows()
    assert restored.baselines() == BASELINES
    assert restored.fwt() == matrix.fwt()


def test_percentages_are_refused():
    with pytest.raises(ValueError, match=r"lies in \[0, 1\], got 95\.0; divide percentages by 100"):
        ScoreMatrix().add(0, 0, 95.0)


def test_tasks_are_counted_from_zero():
    with pytest.raises(ValueError, match="counted from 0, got -1"):
        ScoreMatrix().baseline(-1, 0.5)
