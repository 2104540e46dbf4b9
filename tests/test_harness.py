"""What the tests themselves rest on: ranks whose failing case is named, and programs that are forked."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from programs import ROOT, TRAIN, Running
from ranks import run_cases
from warm_python import warm_python


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


SCRIPT = """
import importlib.util, os, resource, signal, sys, time
what = sys.argv[1]
if what == "shows":
    print(sys.argv, sys.stdin.read(), os.getcwd(), os.environ["PYTHONPATH"], os.umask(0), os.sched_getaffinity(0))
    print(os.getppid(), resource.getrlimit(resource.RLIMIT_NOFILE), signal.getsignal(signal.SIGHUP), __name__, __file__)
    found = [importlib.util.find_spec(name) is not None for name in ("mine", "drb", "ranks")]
    print(os.path.abspath(sys.path[0]), found)
elif what == "exits":
    sys.exit(3)
elif what == "says why it exits":
    sys.exit("why")
elif what == "fails":
    raise KeyError("wrong")
elif what == "kills itself":
    os.kill(os.getpid(), signal.SIGKILL)
else:
    if what == "listens":
        signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def start(python: str, folder: Path, what: str) -> subprocess.Popen:
    def narrow() -> None:
        os.umask(0o027)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    paths = os.pathsep.join([str(ROOT), str(folder / "more")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [python, "../script.py", what, "a b"]
    return subprocess.Popen(command, cwd=folder / "here", env=environment, preexec_fn=narrow, text=True, **pipes)


def test_a_warm_python_does_what_a_cold_one_does(tmp_path):
    for name in ("here", "more"):
        (tmp_path / name).mkdir()
    (tmp_path / "more/mine.py").touch()
    (tmp_path / "script.py").write_text(SCRIPT)
    for what in ("shows", "exits", "says why it exits", "fails", "kills itself", "listens", "is told to end"):
        warm, cold = (start(python, tmp_path, what) for python in (warm_python(), sys.executable))
        if what in ("listens", "is told to end"):
            pids = [int(process.stdout.readline()) for process in (warm, cold)]
            assert [pids[0] == warm.pid, pids[1] == cold.pid] == [False, True]  # one is forked, and one is not
            for process in (warm, cold):
                process.send_signal(signal.SIGUSR2 if what == "listens" else signal.SIGTERM)
        (out, err), other = (process.communicate("given", timeout=20) for process in (warm, cold))
        assert (warm.returncode, out, err.splitlines()[-1:]) == (cold.returncode, other[0], other[1].splitlines()[-1:])
    killed = start(warm_python(), tmp_path, "sleeps")
    rank = os.pidfd_open(int(killed.stdout.readline()))
    killed.kill()
    assert select.select([rank], [], [], 20)[0]  # it has ended as well
    killed.communicate()
    os.close(rank)


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "OMP_NUM_THREADS"])
def test_what_a_warm_process_cannot_have_a_cold_one_has(name, tmp_path):
    (tmp_path / "script.py").write_text("import sys; print('torch' in sys.modules)")
    ended = Running([sys.executable, "script.py"], tmp_path, **{name: "7"}).wait()
    assert (ended.code, ended.out) == (0, "False\n")
