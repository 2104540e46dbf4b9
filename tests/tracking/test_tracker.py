"""The buffer in front of a store, with a store that is a list."""

import logging
import threading
import time
from pathlib import Path

import pytest

from drb.tracking.buffered import BufferedTracker
from drb.tracking.tracker import NullTracker, Point, status_of, valid_name


class FakeRun:
    run_id = "one"
    url = "here"

    def __init__(self, last_steps=None):
        self._last_steps = last_steps or {}
        self.batches: list[list[Point]] = []
        self.params: dict[str, str] = {}
        self.artifacts: list[tuple[str, str | None]] = []
        self.statuses: list[str] = []
        self.threads: set[str] = set()
        self.away = False

    def last_steps(self):
        return self._last_steps

    def _call(self):
        self.threads.add(threading.current_thread().name)
        if self.away:
            raise ConnectionError("nobody\nlistens")

    def write_points(self, points):
        self._call()
        self.batches.append(list(points))

    def write_params(self, params):
        self._call()
        self.params |= params

    def write_tags(self, tags):
        self._call()
        self.tags = {**getattr(self, "tags", {}), **tags}

    def write_artifact(self, path, folder):
        self._call()
        self.artifacts.append((str(path), folder))

    def end(self, status):
        self._call()
        self.statuses.append(status)

    def steps(self, name):
        return [point.step for batch in self.batches for point in batch if point.name == name]


def nowhere(error):
    raise AssertionError(f"went offline: {error}")


def test_metrics_of_many_steps_are_one_write_on_another_thread():
    run = FakeRun()
    with BufferedTracker(run, nowhere, flush_seconds=60) as tracker:
        for step in range(100):
            tracker.log_metrics({"loss": 1 / (step + 1), "lr": 0.1}, step)
        assert run.batches == []
        tracker.flush()
        assert [len(batch) for batch in run.batches] == [200]
    assert run.steps("loss") == list(range(100))
    assert threading.current_thread().name not in run.threads


def test_no_write_is_larger_than_the_store_takes():
    run = FakeRun()
    with BufferedTracker(run, nowhere, flush_seconds=60) as tracker:
        tracker.log_metrics({f"m{index}": 0.0 for index in range(2500)}, 0)
    assert [len(batch) for batch in run.batches] == [1000, 1000, 500]


def test_metrics_are_written_after_some_seconds_without_being_asked():
    run = FakeRun()
    with BufferedTracker(run, nowhere, flush_seconds=0.05) as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
        time.sleep(0.06)
        tracker.log_metrics({"loss": 0.5}, 1)
        deadline = time.monotonic() + 5
        while not run.batches and time.monotonic() < deadline:
            time.sleep(0.01)
        assert run.steps("loss") == [0, 1]


def test_a_resumed_run_goes_on_after_the_last_step_of_each_metric():
    run = FakeRun(last_steps={"loss": 5, "task/acc": 0})
    with BufferedTracker(run, nowhere) as tracker:
        for step in range(4, 8):
            tracker.log_metrics({"loss": 0.0}, step)
        for task in range(3):
            tracker.log_metrics({"task/acc": 0.5, "new": 1.0}, task)
    assert (run.steps("loss"), run.steps("task/acc"), run.steps("new")) == ([6, 7], [1, 2], [0, 1, 2])


def test_nested_params_are_joined_by_dots_and_cut_to_what_fits():
    run = FakeRun()
    with BufferedTracker(run, nowhere) as tracker:
        tracker.log_params({"seed": 0, "buffer": {"capacity": "20GiB", "quota": {"a": None}}, "text": "x" * 10_000})
    assert run.params["buffer.capacity"] == "20GiB"
    assert run.params["buffer.quota.a"] == "None"
    assert len(run.params["text"]) == 6000
    assert run.params["text"].endswith("x…")


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("task/acc", "task/acc"),
        ("accuracy[3]", "accuracy_3_"),
        ("fill: é=1", "fill_ é_1"),
        ("/a//b/", "a/b"),
        ("../secret", "__/secret"),
        ("", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_are_made_valid(name, valid):
    assert valid_name(name) == valid


def test_a_folder_of_artifacts_that_cannot_be_written_costs_the_files_and_no_metric(caplog):
    class NoFiles(FakeRun):
        def write_artifact(self, path, folder):
            raise PermissionError(13, "Permission denied", "/srv/artifacts")

    run = NoFiles()
    with BufferedTracker(run, nowhere) as tracker:
        tracker.log_artifact("plot.png")
        tracker.log_metrics({"loss": 1.0}, 0)
    assert run.steps("loss") == [0]
    assert run.statuses == ["FINISHED"]
    assert "plot.png is not in the tracker, but stays in the run directory: PermissionError" in caplog.text


def test_a_store_that_fails_is_replaced_once_and_nothing_is_lost(caplog):
    online, offline = FakeRun(), FakeRun()
    errors = []

    def go_offline(error):
        errors.append(error)
        return offline

    with BufferedTracker(online, go_offline) as tracker:
        tracker.log_params({"seed": 3})
        tracker.log_metrics({"loss": 1.0}, 0)
        tracker.flush()
        online.away = True
        tracker.log_metrics({"loss": 0.5}, 1)
        tracker.flush()
        tracker.log_metrics({"loss": 0.4}, 2)
        tracker.log_artifact("plot.png", "plots")
    assert [str(error) for error in errors] == ["nobody\nlistens"]
    assert online.steps("loss") == [0]
    assert offline.steps("loss") == [1, 2]
    assert (offline.params, offline.artifacts, offline.statuses) == (
        {"seed": "3"},
        [("plot.png", "plots")],
        ["FINISHED"],
    )


@pytest.mark.parametrize("has_replacement", [True, False])
def test_when_both_stores_fail_that_is_said_once_and_training_goes_on(caplog, has_replacement):
    run = FakeRun()
    run.away = True
    with BufferedTracker(run, (lambda error: run) if has_replacement else None) as tracker:
        for step in range(3):
            tracker.log_metrics({"loss": 1.0}, step)
            tracker.flush()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.messages == ["tracking stops here, training goes on: ConnectionError: nobody"]


def test_the_first_status_counts():
    run = FakeRun()
    tracker = BufferedTracker(run, nowhere)
    tracker.close("KILLED")
    tracker.close("FINISHED")
    assert run.statuses == ["KILLED"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(), "FINISHED"),
        (SystemExit(3), "FAILED"),
        (SystemExit("bad"), "FAILED"),
        (RuntimeError(), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(128 + 15), "KILLED"),
    ],
)
def test_status_of_a_run_that_ends_with(error, status):
    assert status_of(error) == status


def test_leaving_with_an_error_sets_the_status_and_writes_what_was_buffered():
    run = FakeRun()
    with pytest.raises(RuntimeError, match="diverged"), BufferedTracker(run, nowhere) as tracker:
        tracker.log_metrics({"loss": float("nan")}, 7)
        raise RuntimeError("diverged")
    assert (run.steps("loss"), run.statuses) == ([7], ["FAILED"])


def test_the_null_tracker_takes_everything():
    with NullTracker() as tracker:
        tracker.log_params({"a": 1})
        tracker.log_metrics({"a": 1.0}, 0)
        tracker.log_artifact(Path("nothing"))
        tracker.flush()
        assert (tracker.run_id, tracker.url) == (None, None)
