"""Plots are drawn from what summaries hold, without a display and without pyplot's global state."""

import sys

import pytest
from runs.report.summaries import errors, summary, three_runs

from drb.runs.report.plots import accuracy_against_runtime, accuracy_matrices, buffer_fill, save_plots, strategy_colours

PNG = b"\x89PNG"


def test_every_plot_is_written(tmp_path):
    files = save_plots(three_runs(), tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["accuracy_runtime.png", "accuracy_matrix.png", "buffer_fill.png"]
    assert all(file.read_bytes().startswith(PNG) for file in files)
    assert "matplotlib.pyplot" not in sys.modules


def test_a_plot_without_data_is_left_out(tmp_path):
    files = save_plots(three_runs()[:1], tmp_path)
    assert [file.name for file in files] == ["accuracy_runtime.png", "accuracy_matrix.png"]


def test_one_line_per_run_with_a_marker_per_task():
    runs = three_runs()
    lines = accuracy_against_runtime(runs).axes[0].lines
    assert [line.get_label() for line in lines] == [
        "incremental (ACC 20.6 %)",
        "rehearsal (ACC 90.0 %)",
        "from scratch (ACC 96.9 %)",
    ]
    for line, run in zip(lines, runs, strict=True):
        assert list(line.get_xdata()) == [entry["seconds"] for entry in run["history"]]
        assert list(line.get_ydata()) == [entry["acc"] for entry in run["history"]]


def test_strategies_keep_their_colours_and_runs_of_one_differ_by_marker():
    runs = [*three_runs(), three_runs()[1] | {"name": "seed 2"}]
    alone, together = strategy_colours(runs[1:2]), strategy_colours(runs)
    assert alone["er"] == together["er"]
    assert len(set(together.values())) == len(together)
    first, second = (accuracy_against_runtime(runs).axes[0].lines[index] for index in (1, 3))
    assert first.get_color() == second.get_color()
    assert first.get_marker() != second.get_marker()


def test_cells_show_what_was_evaluated():
    figure = accuracy_matrices([summary("half", "er", [[0.504, None], [0.25, 1.0]], [1.0, 2.0])])
    assert {text.get_position(): text.get_text() for text in figure.axes[0].texts} == {
        (0, 0): "50",
        (0, 1): "25",
        (1, 1): "100",
    }


def test_large_matrices_have_no_numbers():
    matrix = [[0.5 if j <= i else None for j in range(20)] for i in range(20)]
    assert not accuracy_matrices([summary("many", "er", matrix, [1.0] * 20)]).axes[0].texts


def test_bars_add_up_to_what_is_stored():
    axes = buffer_fill(three_runs()).axes[0]
    tops = {}
    for bar in axes.patches:
        tops[bar.get_x()] = max(tops.get(bar.get_x(), 0), bar.get_y() + bar.get_height())
    assert sorted(tops.values()) == [198, 200, 200, 200, 200]


def test_many_strata_have_no_legend():
    run = three_runs()[1]
    run["history"][4]["counts"] = {str(label): 1 for label in range(200)}
    assert buffer_fill([run]).axes[0].get_legend() is None


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        save_plots([], tmp_path)


def test_another_metric_than_accuracy_is_shown_as_it_is():
    figure = accuracy_matrices([errors()])
    assert {text.get_position(): text.get_text() for text in figure.axes[0].texts} == {
        (0, 0): "0.25",
        (0, 1): "1.5",
        (1, 1): "0.12",
    }
    assert figure.axes[0].get_xlabel() == "error on task"
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.5)
    axes = accuracy_against_runtime([errors()]).axes[0]
    assert axes.get_ylabel() == "mean error on the tasks seen so far"
    assert [line.get_label() for line in axes.lines] == ["regression (ACC 0.8125)"]
