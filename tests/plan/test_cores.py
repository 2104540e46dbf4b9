"""Threads run where they are told to, and afterwards where they did before."""

from __future__ import annotations

import os
import threading

import pytest

from drb.plan.cores import node_cores, on_cores


def test_all_threads_are_moved_and_moved_back():
    before, stop = os.sched_getaffinity(0), threading.Event()
    other = threading.Thread(target=stop.wait, args=(60,))
    other.start()
    try:
        with pytest.raises(RuntimeError, match="inside"), on_cores({min(before)}):
            assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == {min(before)}
            raise RuntimeError("inside")
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == before
    finally:
        stop.set()
        other.join()


def test_a_core_that_may_not_be_used_is_refused_and_changes_nothing():
    before = os.sched_getaffinity(0)
    with pytest.raises(OSError, match="Invalid argument"), on_cores({4095}):
        pass
    assert os.sched_getaffinity(0) == before


def test_cores_of_one_rank():
    assert node_cores(None, ["here"]) == sorted(os.sched_getaffinity(0))
