"""Starting the program as users do, and reading what it says."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ["experiment=digits", "tracking=none", "scenario.num_tasks=1", "training.epochs=1"]
TRAIN = [sys.executable, "-m", "drb.train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


@dataclass
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        """The lines that drb and its launch files print about errors."""
        return re.findall(r"^(?:drb|launch/\S+): (?:\[rank \d+\] )?error: .*$", self.err, re.MULTILINE)


class Running:
    """A program in the background, with the environment of a user who has set nothing."""

    def __init__(self, command: list[str], cwd: Path, **environment: str) -> None:
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, timeout_s: float = 60.0) -> Ended:
        try:
            out, err = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        return Ended(self._process.returncode, out, err, time.monotonic() - self._started)


def free_port() -> int:
    """Below those that the kernel gives to outgoing connections: nobody takes it before it is used."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def two_ranks(port: int, rank: int) -> dict[str, str]:
    """What torchrun would set."""
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    return {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def visible(folder: Path) -> list[str]:
    """What is in a folder, but for hidden files such as a run's lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
