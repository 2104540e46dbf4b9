"""Jobs of the throw-away cluster: submitting the project's own batch files, and looking at what became of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs import ROOT
from warm_python import warm_python

_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}


@dataclass(frozen=True)
class Job:
    """A submitted job; `folder` is where it was submitted from."""

    id: str
    folder: Path

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / f"slurm-{self.id}"

    @property
    def output(self) -> str:
        file = self.folder / f"slurm-{self.id}.out"
        return file.read_text() if file.exists() else ""

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "summary.json").read_text())

    def show(self) -> dict[str, str]:
        """JobState, ExitCode, Restarts …"""
        text = call("scontrol", "show", "job", self.id)
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"nothing within {timeout_s} s: {self.show()}\n{self.output}"
            time.sleep(0.2)

    def wait(self, timeout_s: float = 60.0) -> dict[str, str]:
        """Until it has ended; its last state."""
        self.wait_for(lambda: self.show()["JobState"] in _ENDED, timeout_s)
        return self.show()

    def signal(self, name: str, *options: str) -> None:
        call("scancel", f"--signal={name}", *options, self.id)


@dataclass(frozen=True)
class Cluster:
    """Submits the project's own files, as they are: only sbatch's options and the environment differ."""

    folder: Path

    def submit(self, file: str, *arguments: str, options: tuple[str, ...] = (), **exported: str) -> Job:
        # Slurm signals what it started and their children: not torchrun, if that were forked elsewhere
        pythons = {
            "DRB_PYTHON": sys.executable if file == "train.sbatch" else warm_python(),
            "PYTHON_EXEC": warm_python(),
        }
        exports = {**pythons, "PYTHONPATH": str(ROOT), **exported}
        command = [
            "sbatch",
            "--parsable",
            "--nodes=2",
            "--ntasks-per-node=1",
            "--gpus-per-node=1",
            "--cpus-per-task=1",
            "--time=5",
            "--export=" + ",".join(["ALL", *(f"{name}={value}" for name, value in exports.items())]),
            *options,
            str(ROOT / "slurm" / file),
            *arguments,
        ]
        return Job(call(*command, cwd=self.folder).strip(), self.folder)


def call(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
