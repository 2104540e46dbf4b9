"""Runs what is left of a study on this machine, one run after the other: a run that fails does not stop the rest."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from drb.program.config.explain import as_text
from drb.runs.report.metric import shown
from drb.study.definition import STARTS, Study, StudyRun
from drb.study.results import Result, last_line, read_result, read_results, write_owner, write_record

OUTPUT = "output.txt"  # what a run has printed, in its directory
LAUNCHERS = tuple(STARTS)


class Launch(Protocol):
    """Trains in a directory until the run's end; returns the exit code. What it prints goes to OUTPUT there."""

    def __call__(self, run: StudyRun, run_dir: Path) -> int: ...


def run_study(
    study: Study, folder: Path, launch: Launch, say: Callable[[str], None], launcher: str = "torchrun"
) -> list[Result]:
    """Start every run that is not done, once; returns the result of each run of the study.

    launcher: what `launch` starts ranks by, one of LAUNCHERS.
    Raises:
        ValueError: what is in the folder is not this study's, or has other settings.
    """
    results = read_results(study, folder)
    write_owner(study, folder)
    done, queued = sum(result.status == "done" for result in results), sum(bool(result.job) for result in results)
    left = [result.run for result in results if result.status != "done" and not result.job]
    elsewhere = f", {queued} in Slurm's queue" if queued else ""
    say(f"{study.title}: {len(results)} runs, {done} of them done{elsewhere}, in {folder}")
    started = time.monotonic()
    for number, run in enumerate(left, 1):
        say(f"[{number}/{len(left)}] {run.name}")
        say(f"    {_run(run, folder, launch, launcher)}{_time_left(started, number, len(left))}")
    return read_results(study, folder)


def _run(run: StudyRun, folder: Path, launch: Launch, launcher: str) -> str:
    """Train, note how it ended, and return that in one line."""
    run_dir = folder / run.folder
    facts = {"host": socket.gethostname(), "launcher": launcher}
    write_record(run, folder, **facts)
    code = launch(run, run_dir)
    result = read_result(run, folder)
    if result.summary is not None:
        summary = result.summary
        score = "" if summary["acc"] is None else f"{shown(summary, summary['acc'])}, "
        return f"done: {score}{summary['train_seconds']:.1f} s of training"
    error = last_line(run_dir / OUTPUT) or "it printed nothing"
    write_record(run, folder, **facts, error=f"exit code {code}: {error}")
    return f"failed with exit code {code}: {error} (all it said: {run_dir / OUTPUT})"


def _time_left(started: float, done: int, total: int) -> str:
    if done == total:
        return ""
    minutes = (time.monotonic() - started) / done * (total - done) / 60
    return f"; about {minutes:.0f} min left" if minutes >= 1 else f"; about {60 * minutes:.0f} s left"


class LocalLaunch:
    """Starts a run by torchrun or mpirun on this machine, and ends it if the study's process ends.

    Attributes:
        environment: of the runs; at first that of this process.

    Args:
        launcher: one of LAUNCHERS.
    Raises:
        ValueError: mpirun is wanted, and is neither beside this Python nor in PATH.
    """

    def __init__(self, launcher: str) -> None:
        self._mpirun = _find_mpirun() if launcher == "mpirun" else None
        # torchrun prints a notice where the number of threads is unset
        self.environment: dict[str, str] = {"OMP_NUM_THREADS": "1", **os.environ}

    def __call__(self, run: StudyRun, run_dir: Path) -> int:
        settings = [*run_settings(run), as_text(f"hydra.run.dir={run_dir}")]
        command = [*self._ranks(run.point.ranks), "-m", "drb.train", *settings]
        with open(run_dir / OUTPUT, "w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent
            )
        try:
            return process.wait()
        except BaseException:  # Ctrl-C reaches the run, too: it may save, and then ends
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise

    def _ranks(self, ranks: int) -> list[str]:
        if self._mpirun is not None:
            return [self._mpirun, "-n", str(ranks), sys.executable]
        return [sys.executable, "-m", "drb.distributed.torchrun", "--standalone", f"--nproc-per-node={ranks}"]


def run_settings(run: StudyRun) -> list[str]:
    """A run's settings with its name."""
    return [*run.settings, as_text(f"name={run.name}"), "tracking.plots=false"]


def _find_mpirun() -> str:
    """The one that came with mpi4py into this Python's environment, or else the site's."""
    for path in (str(Path(sys.executable).parent), None):
        if found := shutil.which("mpirun", path=path):
            return found
    raise ValueError("--launcher=mpirun: there is no mpirun beside this Python or in PATH; load the site's MPI")


def _end_with_parent() -> None:
    """Linux: SIGTERM for this process when the study's process dies, so that no run goes on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
