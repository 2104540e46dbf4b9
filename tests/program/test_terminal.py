"""The live view: what it shows on a terminal, and that it fits there."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import threading

import rich.console

import drb.training.reporting.monitor as monitor
from drb.program.terminal import chosen, view
from drb.train import main
from drb.training.reporting.live import Live

SHORT = ["experiment=digits", "tracking=none", "scenario.num_tasks=2", "training.epochs=2"]


def drawn(live: Live, width: int = 100, height: int = 30) -> list[str]:
    """The lines of the view on a terminal of that size."""
    text = io.StringIO()
    rich.console.Console(file=text, width=width, height=height).print(view(live, width, height))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def live(classes: int, **known) -> Live:
    fill = {f"class {number}": 10 + number for number in range(classes)}
    found = {"stored": 1234, "capacity": 5000, "overlapped": 0.96, "fill": fill, **known}
    return Live("task 2 (classes 2,3)", 120, 235, 3, 5, 355, seconds_left=75.0, **found)


def test_every_figure_and_every_class_is_there():
    known = {"loss": 0.4123, "score": "accuracy 71.2% after task 1", "samples_per_second": 8912.0}
    lines = drawn(live(10, **known))
    assert re.match(r"task 2 \(classes 2,3\) · epoch 3/5 ━+.* 120/235 minibatches · 75 s left$", lines[0])
    assert lines[1] == "step 355 · loss 0.412 · accuracy 71.2% after task 1 · 8,912 samples/s"
    assert lines[2] == "buffer: 1,234 of 5,000 exemplars · 96% of the rehearsal overlapped · on rank 0:"
    bars = dict(re.findall(r"(class \d)\s+([█▏▎▍▌▋▊▉]+)", "\n".join(lines[3:])))
    assert len(bars) == 10
    assert len(bars["class 9"]) == 12  # the fullest
    assert bars["class 0"] == "██████▍"  # 10 of 19, twelve characters of eight parts


def test_what_is_not_known_is_left_out():
    first, second = drawn(Live("task 1 (chunk 1)", 0, 10, 1, 1, 0))
    assert first.split() == ["task", "1", "(chunk", "1)", "·", "epoch", "1/1", "0/10", "minibatches"]
    assert second == "step 0"


def test_hundreds_of_classes_fit_any_terminal():
    names = {"loss": 0.4, "score": "accuracy 12.3% at step 300", "samples_per_second": 1e5}
    for width, height in ((40, 10), (80, 24), (200, 50)):
        lines = drawn(live(1000, **names), width, height)
        assert max(map(len, lines)) <= width
        assert len(lines) < height
    text = "\n".join(drawn(live(1000, **names), 80, 24))
    assert all(f" {count:,}\n" in f"{text}\n" or f" {count:,} " in text for count in (10, 11, 1008, 1009))
    assert "the fullest and the emptiest of 1000; 984 are not shown" in text


def test_the_largest_and_the_smallest_are_chosen():
    fill = {"a": 5, "b": 9, "c": 1, "d": 7, "e": 3}
    assert chosen(fill, 5) == (fill, 0)
    assert chosen(fill, 3) == ({"b": 9, "d": 7, "c": 1}, 2)


def test_a_run_on_a_terminal_shows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(monitor, "_REDRAW_S", 0.0)
    monkeypatch.setattr(monitor, "_DRAWING_SHARE", 1e9)
    for name, value in {"TERM": "xterm", "COLUMNS": "110", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    own, terminal = pty.openpty()
    said: list[bytes] = []
    reader = threading.Thread(target=_read, args=(own, said))
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(terminal, "w") as stdout:
        patch.setattr(sys, "stdout", stdout)
        assert main([*SHORT, "training.log_every=2"]) == 0
    reader.join()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(said).decode())
    assert re.search(r"task 2 \(classes 2,3\) · epoch 2/2 ━+.* \d+/\d+ minibatches · \d+ s left", text)
    assert re.search(r"step \d+ · loss \d\.\d+ · accuracy [\d.]+% after task 1 · [\d,]+ samples/s", text)
    assert re.search(r"buffer: \d+ of \d+ exemplars · \d+% of the rehearsal overlapped · on rank 0:", text)
    assert re.search(r"  1 +█+", text)
    assert text.rstrip().splitlines()[-1].startswith("summary: ")  # the view is gone


def _read(descriptor: int, said: list[bytes]) -> None:
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # the other end is closed
            return
        if not part:
            return
        said.append(part)
