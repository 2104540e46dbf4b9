"""Rank 0's slow work between tasks, a tracker that hangs say, never counts against its peers' time-outs."""

from __future__ import annotations

import time

import checkpoint.runs as runs
from checkpoint.runs import Losses, run
from ranks import run_ranks

from drb.checkpoint import CheckpointSettings, StopSignals


class SlowTracking(Losses):
    def end_task(self, *reported):
        time.sleep(2.5)


def train_with_slow_main(rank, world_size, folder):
    runs.Losses = SlowTracking if rank == 0 else Losses
    signals = lambda _: StopSignals(["USR2"])  # noqa: E731 - so that ranks agree, by a collective with this time-out
    saver = runs.SaverAt
    runs.StopSignals = signals
    runs.SaverAt = lambda *args, **kwargs: saver(*args, **kwargs, timeout_s=1.0)
    settings = CheckpointSettings(at_task_end=True)
    return run(rank, world_size, folder, settings, {"rehearsal": {"timeout_s": 1.0}})["steps"]


def test_peers_wait_for_rank_0_outside_of_any_timeout(tmp_path):
    first, second = run_ranks(train_with_slow_main, 2, tmp_path, timeout=60)
    assert first == second
