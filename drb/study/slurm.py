"""A study under Slurm: an array of jobs for each number of ranks, and behind them a job that makes the page.

Each run is a task of an array, numbered by its place in the study. It is started by a batch file as for single runs
(`slurm/train.sbatch`), which checkpoints before the time limit and requeues itself; its run directory and arguments are
in a file of its own. The name of an array occurs nowhere else and is noted before it is submitted, so a command that is
killed in between submits nothing twice. What is in the queue is left alone; what is done is not done again.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from drb.study.definition import Study
from drb.study.launch import run_settings
from drb.study.page import PAGE
from drb.study.results import Result, write_owner, write_record

FOLDER = "slurm"  # below the study's folder: what jobs are told, and what they print
_PAGE_OPTIONS = r"#SBATCH\s+(--(account|partition|qos|reservation|clusters)\b|-[ApqM]\b)"
_PAGE_SIZE = ("--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=10")


@dataclass(frozen=True)
class Slurm:
    """How the jobs of a study are submitted.

    file:    what each run is started by: a copy of slurm/train.sbatch or slurm/train_srun.sbatch.
    options: of sbatch, for all jobs, the page's too.
    ranks_per_node: at most; None takes the GPUs (or tasks) of a node that the file asks for.
    at_once: how many runs are in progress at a time; None leaves that to Slurm.
    environment: of the jobs, besides that of this process.
    """

    file: Path
    options: Sequence[str] = ()
    ranks_per_node: int | None = None
    at_once: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def text(self) -> str:
        """The file's.

        Raises:
            ValueError: it cannot be read, or does not start runs of a study.
        """
        try:
            text = self.file.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"--batch-file={self.file}: {error.strerror}; give a copy of slurm/train.sbatch in drb's repository"
            ) from None
        if "DRB_ARGUMENTS" not in text:
            raise ValueError(
                f"--batch-file={self.file} does not read DRB_ARGUMENTS; copy drb's slurm/train.sbatch again"
            )
        return text

    def asks_for(self, option: str) -> int | None:
        """The number that the file asks for, as in `#SBATCH --gpus-per-node=a100:4`; None if it does not."""
        found = re.search(rf"^#SBATCH\s+--{option}=(?:\w+:)?(\d+)", self.text, re.MULTILINE)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Array:
    """The runs that need as many ranks.

    name:    of the job.
    places:  of the runs in the study.
    command: that submits them, in this environment.
    """

    name: str
    ranks: int
    places: tuple[int, ...]
    command: Sequence[str]
    environment: Mapping[str, str]


def submit_study(
    study: Study, folder: Path, results: Sequence[Result], slurm: Slurm, page: Sequence[str], say: Callable[[str], None]
) -> None:
    """Submit every run that is neither done nor in the queue, and a job that makes the page when they have ended.

    Args:
        page: the command line that makes the page.
    Raises:
        ValueError: Slurm does not take a job. What was submitted before stays in the queue, and is known.
    """
    done, queued = sum(result.status == "done" for result in results), sum(bool(result.job) for result in results)
    say(f"{study.title}: {len(results)} runs, {done} of them done, {queued} in the queue, in {folder}")
    arrays = arrays_of(study, folder, results, slurm)
    if not arrays:
        say("nothing to submit")
        return
    write_owner(study, folder)
    jobs = sorted({result.job for result in results if result.job})
    for array in arrays:
        _tell(array, study, folder)
        jobs.append(_sbatch(array.command, slurm, after=jobs if slurm.at_once else [], **array.environment))
        say(f"job {jobs[-1]}: {_plural(len(array.places), 'run')}, on {_plural(array.ranks, 'rank')}")
    job = _sbatch(_page_command(f"{arrays[0].name}-page", folder, slurm, page), slurm, after=jobs)
    say(f"job {job}: the page, when those have ended: {folder / PAGE}")


def arrays_of(study: Study, folder: Path, results: Sequence[Result], slurm: Slurm) -> list[Array]:
    """What there is to submit: an array for each number of ranks, the smallest first.

    Raises:
        ValueError: a number of ranks that does not fill its nodes.
    """
    places: dict[int, list[int]] = {}
    for place, result in enumerate(results):
        if result.status != "done" and not result.job:
            places.setdefault(result.run.point.ranks, []).append(place)
    name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', study.name)}-{os.urandom(3).hex()}"
    return [_array(f"{name}-W{ranks}", ranks, tuple(places[ranks]), folder, slurm) for ranks in sorted(places)]


def _array(name: str, ranks: int, places: tuple[int, ...], folder: Path, slurm: Slurm) -> Array:
    per_node = _ranks_per_node(ranks, slurm)
    is_srun = "-m drb.distributed.torchrun" not in slurm.text
    command = [
        f"--nodes={ranks // per_node}",
        f"--ntasks-per-node={per_node if is_srun else 1}",
        *([f"--gpus-per-node={per_node}"] if slurm.asks_for("gpus-per-node") else []),
        *slurm.options,
        f"--job-name={name}",
        f"--array={','.join(map(str, places))}{f'%{slurm.at_once}' if slurm.at_once else ''}",
        f"--output={folder / FOLDER / name}/%a.out",
        str(slurm.file),
    ]
    environment = {"DRB_ARGUMENTS": str(folder / FOLDER / name), "DRB_RANKS_PER_NODE": str(per_node)}
    return Array(name, ranks, places, command, environment)


def _plural(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def _tell(array: Array, study: Study, folder: Path) -> None:
    """Leave every run's directory and arguments where its job finds them, and note which job that is."""
    told = folder / FOLDER / array.name
    told.mkdir(parents=True, exist_ok=True)
    for place in array.places:
        run = study.runs[place]
        run_dir = folder / run.folder
        (told / str(place)).write_text("\n".join([str(run_dir), *run_settings(run), ""]), encoding="utf-8")
        job = {"job": f"{array.name} {place}", "output": str(told / f"{place}.out")}
        write_record(run, folder, host=socket.gethostname(), **job)


def _ranks_per_node(ranks: int, slurm: Slurm) -> int:
    most = slurm.ranks_per_node or slurm.asks_for("gpus-per-node") or slurm.asks_for("ntasks-per-node") or 1
    if ranks % min(most, ranks):
        raise ValueError(
            f"{ranks} ranks do not fill nodes of {most} ranks each; change --ranks, or give --ranks-per-node="
            f"{math.gcd(ranks, most)}"
        )
    return min(most, ranks)


def _page_command(name: str, folder: Path, slurm: Slurm, page: Sequence[str]) -> list[str]:
    """Write a batch file that makes the page, under the runs' account and in their partition; options to submit it."""
    options = [line for line in slurm.text.splitlines() if re.match(_PAGE_OPTIONS, line)]
    lines = ["#!/usr/bin/env bash", *options, shlex.join([sys.executable, "-m", "drb.cli", *page]), ""]
    script = folder / FOLDER / f"{name}.sbatch"
    script.write_text("\n".join(lines), encoding="utf-8")
    sizes = [*_PAGE_SIZE, *(["--gpus-per-node=0"] if slurm.asks_for("gpus-per-node") else [])]
    return [*slurm.options, *sizes, f"--job-name={name}", f"--output={folder / FOLDER / name}.out", str(script)]


def _sbatch(command: Sequence[str], slurm: Slurm, *, after: Sequence[str], **environment: str) -> str:
    """Submit a job that begins when others have ended; return its number."""
    waits = [f"--dependency=afterany:{':'.join(after)}"] if after else []
    submit = ["sbatch", "--parsable", *waits, *command]
    try:
        done = subprocess.run(
            submit, env={**os.environ, **slurm.environment, **environment}, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise ValueError("--slurm: there is no sbatch here; run this on a login node of the cluster") from None
    if done.returncode:
        said = (done.stderr.strip() or f"sbatch ended with code {done.returncode}").splitlines()[-1]
        raise ValueError(f"Slurm does not take a job: {said} ({shlex.join(submit)})")
    return done.stdout.strip().partition(";")[0]
