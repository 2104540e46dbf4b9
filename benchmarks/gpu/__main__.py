"""Check a GPU: is rehearsal right there, and what does it cost? `make gpu-check`: at most six minutes, no network.

    python -m benchmarks.gpu [--only PIECE …] [--jobs JOB …] [--minutes 6] [--out FOLDER] [--commit NAME]
    python -m benchmarks.gpu --cpu          # tiny, without a GPU: shows that the check itself runs

Each piece runs in a process of its own and has a part of the minutes, which it fills with repeats. If it takes longer
it is ended, what it has measured by then is kept, and the other pieces go on. Writes <card>-<date>.json and .md, or
<card>-<date>-<part>.json and .md if a part was asked for, numbered from the second of a day on;
benchmarks/results/gpu/README.md says how to submit them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import limits, pause, program, ranks, report, soak, steps
from benchmarks.gpu.jobs import JOBS, TINY
from benchmarks.gpu.run_tests import run_tests

ROOT = Path(__file__).parents[2]
SECONDS = {"limits": 15, "tests": 75, "soak": 20, "steps": 140, "pause": 50, "ranks": 50}  # at most, of six minutes
WHEN_ASKED = {"program": 300}
NEED_A_CARD = ("limits", "tests")
_START_S = 8  # until a piece's process has imported torch and opened the device


def run_piece(name: str, options: argparse.Namespace) -> Any:
    """One piece's figures, measured here."""
    device = torch.device("cpu") if options.cpu else torch.device("cuda", 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    jobs = TINY if options.cpu else {job: JOBS[job] for job in options.jobs}
    small = next(iter(TINY.values())) if options.cpu else replace(JOBS["cnn 56+7"], steps=50)
    within_s, keep_figures = seconds_of(name, options) - _START_S, partial(keep, options)
    pieces: dict[str, Callable[[], Any]] = {
        "limits": lambda: limits.measure(device),
        "soak": lambda: soak.measure(device, 24 if options.cpu else 300, within_s),
        "steps": lambda: steps.measure(jobs, device, within_s, keep_figures),
        "pause": lambda: pause.measure(
            ["resnet18"] if options.cpu else ["resnet50", "resnet18"], device, keep_figures, tiny=options.cpu
        ),
        "program": lambda: program.measure(within_s, keep_figures, tiny=options.cpu),
        "ranks": lambda: ranks.measure(
            small, device, (2,) if options.cpu else (2, 4), 2 if options.cpu else 3, keep_figures
        ),
    }
    return pieces[name]()


def keep(options: argparse.Namespace, figures: Any) -> None:
    """Write a piece's figures so far, which then are not lost."""
    options.piece_out.write_text(json.dumps(figures))


def seconds_of(name: str, options: argparse.Namespace) -> float:
    """How long a piece may take. The tiny version has more: the machine may be busy with something else."""
    return (SECONDS | WHEN_ASKED)[name] * (4 if options.cpu else options.minutes / 6)


def part_of(options: argparse.Namespace) -> str:
    """What was asked for, for the name of the files; nothing if it is everything."""
    pieces = [] if options.only == list(SECONDS) else options.only
    return "-".join([*pieces, *([] if options.jobs == list(JOBS) else ["some-jobs"])])


def run_apart(name: str, arguments: list[str], seconds: float) -> tuple[str, Any]:
    """A piece in its own process: how it ended, and its figures so far, None if there are none."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(folder, "piece.json"), time.monotonic()
        command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--piece", name, "--piece-out", str(out)]
        running = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        try:
            code = running.wait(seconds)
            status = "ran" if code == 0 else f"FAILED ({code})"
        except subprocess.TimeoutExpired:
            status = f"STOPPED after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)  # and the processes that it has started
            running.wait()
        found = json.loads(out.read_text()) if out.exists() else None
        return f"{status}, {time.monotonic() - start:.0f} s", found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SECONDS, *WHEN_ASKED], default=list(SECONDS), metavar="PIECE")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS), metavar="JOB")
    parser.add_argument("--minutes", type=float, default=6.0, help="at most, for all pieces; 12: more repeats")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu")
    parser.add_argument("--commit", help="to be stated where git does not know it; by default git's, +changes if any")
    parser.add_argument("--cpu", action="store_true", help="tiny, without a GPU")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    parser.add_argument("--piece-out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("gpu-check needs a CUDA device, and torch sees none; --cpu shows that the check itself runs")
    if options.piece == "tests":
        line, has_passed = run_tests()
        keep(options, line)
        sys.exit(not has_passed)
    if options.piece:
        keep(options, run_piece(options.piece, options))
        return
    device = torch.device("cpu") if options.cpu else torch.device("cuda", 0)
    found = {"machine": report.machine(device, options.commit), "pieces": {}}
    path = report.new_path(found["machine"], options.out, part_of(options))
    for name in options.only:
        print(f"-- {name}", flush=True)
        if options.cpu and name in NEED_A_CARD:
            found["pieces"][name] = "not run: it needs a card"
        else:
            found["pieces"][name], figures = run_apart(name, sys.argv[1:], seconds_of(name, options))
            if name == "tests":
                found["pieces"]["tests"] += f": {figures}"
            elif figures is not None:
                found[name] = figures
        report.save(found, path)  # after every piece, so that little is lost
    print(path.read_text())
    sys.exit(int(any("FAILED" in status or "STOPPED" in status for status in found["pieces"].values())))


if __name__ == "__main__":
    main()
