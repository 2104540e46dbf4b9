"""Writing goes on behind training; what goes wrong there ends all ranks at one step, and never harms what was saved."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import collect_ranks, run_ranks

from drb.checkpoint import Checkpointer, CheckpointError, CheckpointSettings, StopSignals, writing
from drb.checkpoint.checkpointer import Interrupted
from drb.checkpoint.files import FileWriter
from drb.distributed.world import World


def state(steps: int):
    rows = np.full((5, 8), steps)
    return lambda: {
        "trainer": {"steps": steps},
        "model": {"w": torch.full((3,), float(steps))},
        "optimizer": {},
        "rank": {"rows": rows},
    }


def open_saver(folder: str | Path, rank: int = 0, world_size: int = 1, **settings) -> Checkpointer:
    settings = {"every_steps": 1, "keep_last": 2, "signals": []} | settings
    return Checkpointer(
        CheckpointSettings(**settings),
        Path(folder),
        World(rank, world_size),
        signals=StopSignals([]),
        ask_every_s=0.01,
    )


def steps_of(saved) -> int:
    assert saved.state["rank"]["rows"].tolist() == np.full((5, 8), saved.state["trainer"]["steps"]).tolist()
    assert saved.state["model"]["w"].tolist() == [saved.state["trainer"]["steps"]] * 3
    return saved.state["trainer"]["steps"]


@pytest.fixture
def gate(monkeypatch) -> threading.Event:
    """Nothing is written before it is set."""
    gate, write = threading.Event(), writing.write_part

    def waiting(*args, **kwargs):
        assert gate.wait(60)
        return write(*args, **kwargs)

    monkeypatch.setattr(writing, "write_part", waiting)
    return gate


def test_training_goes_on_and_what_it_changes_is_not_in_the_checkpoint(tmp_path, gate):
    saver, weights = open_saver(tmp_path, every_steps=2), torch.zeros(3)
    now = lambda: {**state(2)(), "model": {"w": weights}}  # noqa: E731
    saver.begin_task(0)
    for step in range(1, 4):
        saver.visit(step, now)
        weights += 1  # 1.0 at step 2, where it is saved
    assert not (tmp_path / "checkpoints/step-0000000002").exists()
    gate.set()
    saver.finish()
    assert open_saver(tmp_path).find().state["model"]["w"].tolist() == [1.0] * 3
    assert saver.tally.count == 1
    assert saver.tally.write_seconds > 0 < saver.seconds


@pytest.mark.parametrize("end", ["a second save", "the end of a task", "a signal", "the end of the run"])
def test_what_waits_for_the_write(tmp_path, gate, end):
    saver = open_saver(tmp_path, at_task_end=True)
    saver.begin_task(0)
    saver.visit(1, state(1))
    seen: list[bool] = []

    def open_later() -> None:
        seen.append((tmp_path / "checkpoints/step-0000000001").exists())
        gate.set()

    timer = threading.Timer(0.2, open_later)
    timer.start()
    if end == "a second save":
        saver.visit(2, state(2))
    elif end == "the end of a task":
        saver.visit_boundary(1, state(1), evaluated=True)
        assert (tmp_path / "checkpoints/step-0000000001-evaluated").exists()
    elif end == "a signal":
        saver._signals.received = signal.SIGTERM
        with pytest.raises(Interrupted):
            saver.visit_boundary(2, state(2), evaluated=False)
        assert (tmp_path / "checkpoints/step-0000000002").exists()
    else:
        with saver:
            pass
    assert seen == [False]
    assert (tmp_path / "checkpoints/step-0000000001").exists()
    saver.finish()


def fail_behind(rank: int, world_size: int, folder: str, who: int, error: type[Exception]) -> tuple[int, str]:
    """The step at which a rank is told that the write begun at step 10 has failed, in the middle of a file."""
    put = FileWriter._put

    def failing(self: FileWriter, data: Any) -> None:
        if rank == who and ".step-0000000010" in self._file.name and "rank-" in self._file.name:
            put(self, bytes(data)[:40])
            raise error(errno.ENOSPC, "No space left on device")
        put(self, data)

    FileWriter._put = failing  # type: ignore[method-assign]
    saver, weights = open_saver(folder, rank, world_size, every_steps=5), torch.zeros(3)
    saver.begin_task(0)
    try:
        for step in range(1, 5000):
            dist.all_reduce(weights)  # the gradients: a rank that left alone would hang the others
            if step > 10:
                saver._next_periodic = 10_000  # nothing but the ranks' talk ends this
            if step >= saver.next_step:
                saver.visit(step, state(step))
    except CheckpointError as failure:
        return step, str(failure)
    return -1, ""


@pytest.mark.parametrize(("world_size", "who", "error"), [(2, 1, OSError), (3, 0, RuntimeError)])
def test_a_full_disk_ends_all_ranks_at_the_same_step_and_the_checkpoint_before_loads(tmp_path, world_size, who, error):
    results = run_ranks(fail_behind, world_size, str(tmp_path), who, error, timeout=60)
    step, message = results[0]
    assert results == [results[0]] * world_size
    assert 10 < step < 5000
    assert message.startswith(f"the checkpoint could not be saved on rank {who}: ")
    assert "No space left on device" in message
    (found,) = run_ranks(find_again, world_size, str(tmp_path), timeout=60)[:1]
    assert found == (5, ["step-0000000005"])


def find_again(rank: int, world_size: int, folder: str) -> tuple[int, list[str]]:
    saved = open_saver(folder, rank, world_size).find()
    dist.barrier()
    return steps_of(saved), [path.name for path in Path(folder, "checkpoints").iterdir()]


def save_until_killed(rank: int, world_size: int, folder: str, kill_at: int) -> None:
    """SIGKILL at one of the moments in which a checkpoint changes the disk."""
    calls = [0]

    def counted(function):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    os.fsync, os.link, os.unlink, os.rmdir = map(counted, (os.fsync, os.link, os.unlink, os.rmdir))  # type: ignore
    Path.rename, Path.mkdir = counted(Path.rename), counted(Path.mkdir)  # type: ignore[method-assign]
    saver = open_saver(folder)
    saver.begin_task(0)
    for step in range(1, 20):
        saver.visit(step, state(step))


# a save has about 25 moments: these lie in the 1st, 2nd and all parts of later ones, where older ones are deleted
@pytest.mark.parametrize("kill_at", [3, 17, 41, 44, 47, 50, 53, 56, 59, 62, 65])
def test_killed_at_any_moment_the_last_good_checkpoint_loads_and_nothing_is_left_over(tmp_path, kill_at):
    results, failures = collect_ranks(save_until_killed, 1, str(tmp_path), kill_at, timeout=60)
    assert not results
    assert "exit code -9" in failures[0]
    complete = [path for path in (tmp_path / "checkpoints").glob("step-*") if (path / "manifest.json").exists()]
    saver = open_saver(tmp_path)
    saved = saver.find()
    assert (saved is None) == (not complete)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    if saved is not None:
        last = steps_of(saved)
        assert last == max(int(path.name.split("-")[1]) for path in complete)
        saver.begin_task(last)
        saver.visit(last + 1, state(last + 1))
        saver.finish()
        assert steps_of(open_saver(tmp_path).find()) == last + 1
