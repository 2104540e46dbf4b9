"""The stacked bars of a step's parts."""

import pytest
from runs.report.summaries import three_runs

from drb.runs.report.breakdown_plot import breakdown
from drb.runs.report.plots import save_plots

ROUND = {"announce": 0.2, "draw": 0.1, "index": 0.3, "rows": 0.4}
TRAINING = {"load": 0.5, "wait": 0.25, "round": 0.0, "admission": 0.5, "copy": 0.75, "train": 8.0}


def runs():
    plain, rehearsal, inline = three_runs()
    told = {"steps": 100, "setup": 0.1}
    return [
        plain | {"breakdown": told | {"training": {"load": 0.5, "copy": 0.0, "train": 7.5}, "round": None}},
        rehearsal | {"breakdown": told | {"training": TRAINING, "round": ROUND}},
        inline | {"breakdown": told | {"training": TRAINING | {"round": 1.0}, "round": ROUND}},
    ]


def widths(axes):
    """Milliseconds of every bar, from top to bottom."""
    rows: dict[float, float] = {}
    for bar in axes.patches:
        rows[bar.get_y()] = rows.get(bar.get_y(), 0) + bar.get_width()
    return [rows[y] for y in sorted(rows)]


def test_bars_add_up_to_the_time_per_step():
    axes, without_train = breakdown(runs()).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "incremental: training",
        "rehearsal: training",
        "rehearsal: round",
        "from scratch: training",
        "from scratch: round (inline)",
    ]
    assert widths(axes) == pytest.approx([80, 100, 10, 110, 10])
    assert widths(without_train) == pytest.approx([5, 20, 10, 30, 10])


def test_each_part_is_named_once_and_one_that_took_no_time_not_at_all():
    names = [text.get_text() for text in breakdown(runs()[:2]).legends[0].get_texts()]
    assert len(names) == len(set(names)) == 9
    assert not any(name.startswith("round") for name in names)


def test_it_is_drawn_beside_the_others_if_there_is_one(tmp_path):
    assert "breakdown.png" in {file.name for file in save_plots(runs(), tmp_path)}
    assert breakdown(three_runs()) is None
