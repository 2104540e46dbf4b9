"""What the tests themselves rest on: ranks whose failing case is named, and programs that are forked."""

from __future__ import annotations

import signal
import sys
import time

import pytest
import torch.distributed as dist
from programs import TRAIN, Running
from ranks import run_cases


def share(rank, world_size, what, value):
    if what == "fails" and rank == 1:
        raise ValueError(f"no {value}")
    if what == "hangs" and rank == 1:
        time.sleep(60)
    gathered = [None] * world_size
    dist.all_gather_object(gathered, value + rank)
    return gathered


def test_cases_share_the_ranks_and_the_results_are_by_case_and_rank():
    results = run_cases(share, 2, {"small": ("works", 1), "large": ("works", 10)})
    assert results == {"small": [[1, 2]] * 2, "large": [[10, 11]] * 2}


def test_the_case_that_fails_is_named():
    with pytest.raises(AssertionError, match=r"(?s)rank 1.*no 7.*case 'second' failed on rank 1"):
        run_cases(share, 2, {"first": ("works", 1), "second": ("fails", 7)})


def test_the_case_that_hangs_is_named():
    with pytest.raises(AssertionError, match=r"(?s)ranks \[0, 1\] of 2 did not finish in 2 s.*in case 'second':"):
        run_cases(share, 2, {"first": ("works", 1), "second": ("hangs", 7)}, timeout=2)


def test_a_forked_program_is_a_program(tmp_path):
    """Its arguments, working directory, environment, output and exit code are its own, and a signal ends it."""
    ended = Running([*TRAIN, "seed=x"], tmp_path).wait()
    assert (ended.code, ended.out, ended.err) == (1, "", "drb: error: seed must be an integer, got 'x'\n")
    ended = Running([*TRAIN, "seed=x"], tmp_path, RANK="1", WORLD_SIZE="two").wait()
    assert "WORLD_SIZE must be an integer, got 'two'" in ended.err
    program = Running([*TRAIN, "experiment=digits", "tracking=none", "training.epochs=1000000"], tmp_path)
    program.wait_for("er on digits")
    assert (tmp_path / "runs").exists()
    program.signal(signal.SIGKILL)
    assert program.wait().code == -signal.SIGKILL


def test_a_program_that_does_not_end_is_killed_and_what_it_printed_is_shown(tmp_path):
    command = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
    with pytest.raises(AssertionError, match=r"(?s)did not end in 3 s:.*here"):
        Running(command, tmp_path).wait(3)


def test_a_program_that_ends_without_printing_what_is_waited_for_fails_at_once(tmp_path):
    with pytest.raises(AssertionError, match="ended without printing 'never'"):
        Running([sys.executable, "-c", "print('other')"], tmp_path).wait_for("never")
