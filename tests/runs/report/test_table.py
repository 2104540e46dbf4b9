"""The table reads well in a terminal and in a file."""

import io
import re

import pytest
from runs.report.summaries import errors, summary, three_runs

from drb.runs.report.table import plain_table, print_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_number_that_was_asked_for_is_there():
    assert plain_table(three_runs()).splitlines()[:5] == [
        "run           task 1     2     3     4     5   ACC    BWT  forgetting  runtime  waited",
        "------------  ------  ----  ----  ----  ----  ----  -----  ----------  -------  ------",
        "incremental     99.0  50.0  33.7  25.5  20.6  20.6  -98.0        98.0   5.50 s       -",
        "rehearsal       99.0  96.8  94.5  92.2  90.0  90.0  -11.2        11.2   6.40 s  0.03 s",
        "from scratch    98.5  98.1  97.7  97.3  96.9  96.9   -1.0         1.0  16.50 s       -",
    ]


@pytest.mark.parametrize("width", [80, 100])
def test_a_terminal_gets_the_same_cells(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    print_table(three_runs(), terminal)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    expected = plain_table(three_runs(), width).splitlines()
    assert [line.split() for line in lines[2:5]] == [line.split() for line in expected[2:5]]
    assert max(map(len, lines)) <= width


def test_a_narrow_table_leaves_out_tasks_between_the_first_and_the_last():
    head = plain_table(three_runs(), width=80).splitlines()[0].split()
    assert head[:7] == ["run", "task", "1", "2", "4", "5", "ACC"]


def test_a_file_gets_plain_text():
    file = io.StringIO()
    print_table(three_runs(), file)
    assert file.getvalue() == plain_table(three_runs()) + "\n"


def test_many_tasks_and_long_names_still_fit():
    matrix = [[0.5 if j <= i else None for j in range(100)] for i in range(100)]
    run = summary("a name that goes on and on", "er", matrix, [1000.0 * (i + 1) for i in range(100)])
    text = plain_table([run])
    assert "task 1    26    51    75   100   ACC" in text
    assert "a name that goes on and on " in text
    assert max(map(len, text.splitlines())) <= 100


def test_unknown_values_are_dashes():
    run = summary("one task", "er", [[0.75]], [2.0])
    assert plain_table([run]).splitlines()[2].split() == ["one", "task", "75.0", "75.0", "-", "-", "2.00", "s", "-"]


def test_a_run_that_stopped_early_has_dashes_for_the_rest():
    short = summary("stopped", "er", [[0.5], [0.5, 0.5]], [1.0, 2.0])
    cells = plain_table([*three_runs(), short]).splitlines()[5].split()
    assert cells[:6] == ["stopped", "50.0", "50.0", "-", "-", "-"]


def test_ranks_model_and_seed_are_columns_where_they_differ_and_said_once_where_not():
    runs = [
        run | {"world_size": ranks, "seed": 3, "config": {"model": {"name": model}, "seed": 3}}
        for run, ranks, model in zip(three_runs(), (1, 2, 2), ("mlp", "mlp", "cnn"), strict=True)
    ]
    table = plain_table(runs)
    head, _, *rows = [line.split() for line in table.splitlines()[:4]]
    assert head[:5] == ["run", "ranks", "model", "task", "1"]
    assert [row[:3] for row in rows] == [["incremental", "1", "mlp"], ["rehearsal", "2", "mlp"]]
    assert table.splitlines()[-1] == "all runs: seed 3"
    assert plain_table([runs[0]]).splitlines()[-1] == "all runs: ranks 1, model mlp, seed 3"


def test_no_run_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        plain_table([])


def test_another_metric_than_accuracy_is_named_with_its_direction_and_not_in_percent():
    table = plain_table([errors()])
    assert re.search(r"regression +0\.25 +0\.8125 +0\.8125 +-1\.25 +1\.25 ", table)
    assert "Error (lower is better): the mean over the tasks seen" in table
