"""profile=true: a trace of some steps with the ranges of both threads, and nothing left behind."""

from __future__ import annotations

import gzip
import json

from training.parts import Recording, small_dataset, small_trainer

from drb import Rehearsal
from drb.program.config.schema import ProfilingConfig
from drb.program.profiling import Profiler
from drb.program.ranges import RANGES, named_ranges
from drb.rehearsal.pipeline import Pipeline
from drb.rehearsal.round import RoundRunner


def profiled(file, **steps):
    """Train 8 steps on one rank; returns what was said."""
    said = []
    with (
        Profiler(ProfilingConfig(**steps), file, said.append) as profiler,
        Rehearsal(capacity=8, exemplars=4, asynchronous=True, verbose=False) as rehearsal,
    ):
        trainer = small_trainer(small_dataset(80), Recording(base="er"), rehearsal=rehearsal, batch_size=10)
        trainer._phases._on_step = profiler.step
        trainer.run()
    assert trainer.steps == 8
    return said


def ranges_of(file):
    """Each range's threads and how often it came."""
    with gzip.open(file) as trace:
        events = json.load(trace)["traceEvents"]
    found: dict[str, tuple[set[int], int]] = {}
    for event in events:
        if event["name"].startswith("drb/") and event["ph"] == "X":
            threads, count = found.get(event["name"], (set(), 0))
            found[event["name"]] = (threads | {event["tid"]}, count + 1)
    return found


def test_the_trace_has_the_ranges_of_both_threads(tmp_path):
    original = Pipeline.take, RoundRunner._run
    file = tmp_path / "profile" / "rank-0.trace.json.gz"
    [line] = profiled(file, wait=1, warm_up=1, record=3)
    assert str(file) in line
    assert "perfetto" in line
    found = ranges_of(file)
    assert {"drb/load", "drb/extend", "drb/extend: wait", "drb/round", "drb/round: announce"} <= found.keys()
    assert {"drb/round: draw", "drb/round: fetch", "drb/train: forward and backward"} <= found.keys()
    [training], [worker] = found["drb/load"][0], found["drb/round"][0]
    assert training != worker
    assert found["drb/extend"] == ({training}, 3)
    assert found["drb/round: draw"][0] == {worker}
    assert (Pipeline.take, RoundRunner._run) == original


def test_a_run_that_ends_while_it_is_recorded_leaves_what_there_is(tmp_path):
    file = tmp_path / "short.trace.json.gz"
    assert len(profiled(file, wait=2, warm_up=1, record=100)) == 1
    assert ranges_of(file)["drb/load"][1] == 5


def test_a_run_that_ends_before_says_so(tmp_path):
    file = tmp_path / "none.trace.json.gz"
    [line] = profiled(file, wait=100, warm_up=1, record=1)
    assert "the run had 8 steps" in line
    assert not file.exists()


def test_methods_are_as_they_were_afterwards():
    before = [vars(owner)[method] for owner, method, _ in RANGES]
    with named_ranges():
        assert all(vars(owner)[method] is not old for (owner, method, _), old in zip(RANGES, before, strict=True))
    assert [vars(owner)[method] for owner, method, _ in RANGES] == before
