"""Starting the program as users do, and reading what it says."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ranks import FORKS, share_preload
from warm_client import is_warm
from warm_python import run_as_python, warm_python

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
    """A program in the background, with the environment of a user who has set nothing.

    `python -m drb.…`, torchrun and scripts are forked from a process that has already imported what they import: 0.3 s
    instead of 5 s of processor time. So are the ranks that they start, by `warm_python`. Any other command, and code
    that is not in this checkout, starts an interpreter of its own. What the program prints goes to files, so that it
    can be read while it runs. A program that still runs when this object goes is killed.
    """

    def __init__(self, command: Sequence[str], cwd: Path, **environment: str) -> None:
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "PYTHON_EXEC": warm_python()}
        environment = {**os.environ, **own, **environment}
        folder = Path(tempfile.mkdtemp(prefix="drb-test-program-"))
        self._files = (folder / "out", folder / "err")
        for file in self._files:
            file.touch()
        self._command = [str(part) for part in command]
        self._started = time.monotonic()
        if self._command[0] == sys.executable and is_warm(self._command[1:], environment, str(ROOT)):
            self._process = _Fork(self._command[1:], cwd, environment, self._files)
        else:
            self._process = _start(self._command, cwd, environment, self._files)
        weakref.finalize(self, _end, self._process, folder)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def out(self) -> str:
        """What it has printed so far to the standard output."""
        return self._files[0].read_text()

    @property
    def err(self) -> str:
        """What it has printed so far to the standard error output."""
        return self._files[1].read_text()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> None:
        """Wait until the program has printed this regular expression to the standard output."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.out):
            assert self._process.poll() is None, f"ended without printing {pattern!r}:\n{self.out}{self.err}"
            assert time.monotonic() < deadline, f"{pattern!r} not printed in {timeout_s:g} s:\n{self.out}{self.err}"
            time.sleep(0.02)

    def wait(self, timeout_s: float = 60.0) -> Ended:
        """Wait until the program has ended; one that has not within `timeout_s` is killed and fails the test."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(
                f"{' '.join(self._command)} did not end in {timeout_s:g} s:\n{self.out}{self.err}"
            ) from None
        return Ended(code, self.out, self.err, time.monotonic() - self._started)


class _Fork:
    """A process forked from the server of `ranks`; has the methods of Popen that are needed here."""

    def __init__(self, command: list[str], cwd: Path, environment: dict[str, str], files: tuple[Path, Path]) -> None:
        share_preload()
        self._process = FORKS.Process(target=_run, args=(command, cwd, environment, files), daemon=True)
        self._process.start()
        self.pid = self._process.pid
        self.kill = self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("", timeout or 0.0)
        return self._process.exitcode


def _run(command: list[str], cwd: Path, environment: dict[str, str], files: tuple[Path, Path]) -> None:
    outputs = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in files]
    run_as_python(command, cwd, environment, (os.open(os.devnull, os.O_RDONLY), *outputs))


def _start(command: list[str], cwd: Path, environment: dict[str, str], files: tuple[Path, Path]) -> subprocess.Popen:
    with open(files[0], "a") as out, open(files[1], "a") as err:
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=err)


def _end(process: _Fork | subprocess.Popen, folder: Path) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Below those that the kernel gives to outgoing connections: nobody takes it before it is used."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def start_ranks(world_size: int, arguments: Sequence[str], cwd: Path, **environment: str) -> list[Running]:
    """`drb train` on that many ranks of this machine, as torchrun would start them but without it."""
    port = free_port()
    places = [place_of(rank, world_size, port) for rank in range(world_size)]
    return [Running([*TRAIN, *arguments], cwd, **place, **environment) for place in places]


def place_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun would set on one machine."""
    place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
    return {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def visible(folder: Path) -> list[str]:
    """What is in a folder, but for hidden files such as a run's lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
