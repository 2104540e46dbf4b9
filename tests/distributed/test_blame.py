"""What is said of many ranks fits a line. (That the right ranks are named is shown on real ones: tests/distributed.)"""

from __future__ import annotations

import numpy as np
import pytest
import torch.distributed as dist

from drb.distributed import failure
from drb.distributed.failure import FailureBoard, first_few
from drb.distributed.heartbeat import Heartbeat, News
from drb.rehearsal.exemplars import ACTIVE, FINISHED, Ends


@pytest.fixture
def beat(monkeypatch):
    """Rank 0's heartbeat, of however many; the others are silent."""
    beat = Heartbeat(dist.HashStore(), 0, 100)
    monkeypatch.setattr(failure, "heartbeat", lambda: beat)
    monkeypatch.setattr(failure, "_grace_s", lambda beat: 0.1)
    yield beat
    beat.stop()


def blame(num_ranks):
    return str(FailureBoard(range(num_ranks)).explain("round 3, sizes", RuntimeError("broken")))


def test_of_many_silent_ranks_eight_are_named(beat):
    assert "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 91 more did not arrive and send no heartbeat" in blame(100)


def test_of_few_silent_ranks_all_are_named(beat):
    assert "ranks 1, 2, 3, 4, 5, 6, 7, 8 did not arrive" in blame(9)


def test_of_many_ranks_that_wait_eight_are_named(beat):
    for rank in range(1, 100):
        beat.announce(News(rank, "round 4, rows"))
    told = blame(100)
    assert "all ranks are alive (rank 1: round 4, rows; rank 2: round 4, rows; " in told
    assert "; rank 8: round 4, rows and 91 more), so they wait for different things" in told
    assert "rank 9:" not in told


def test_of_many_ranks_that_another_one_missed_eight_are_named(beat):
    beat.announce(News(1, "round 3, sizes", silent=tuple(range(2, 100))))
    for rank in range(2, 100):
        beat.announce(News(rank, "late"))
    assert "rank 1 found that ranks 2, 3, 4, 5, 6, 7, 8, 9 and 90 more sent no heartbeat" in blame(100)


def test_of_many_ranks_that_stopped_eight_are_named():
    statuses = np.full(4096, ACTIVE)
    statuses[5] = FINISHED
    told = str(Ends(statuses, np.full(len(statuses), 7)).uneven())
    assert "ranks [5] stopped after 7 steps while ranks [0, 1, 2, 3, 4, 6, 7, 8 and 4087 more] go on" in told


def test_nothing_is_left_out_of_a_short_list():
    assert first_few([]) == ""
    assert first_few([3]) == "3"
