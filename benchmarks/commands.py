"""drb's commands on several ranks, in processes forked from one that has imported all: 0.3 s instead of 5 s each.

The ranks find one another as those that torchrun starts do, by the environment.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")


def preload() -> None:
    """Let the process from which others are forked import what they need; before the first of them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _FORKS.set_forkserver_preload(["torch._dynamo", "drb.cli", "drb.train", "drb.update.command"])


class Command:
    """`drb …` that runs on one or several ranks of this machine."""

    def __init__(self, arguments: Sequence[str], world_size: int = 1) -> None:
        self._name = f"drb {' '.join(arguments)}"
        self._log = Path(tempfile.mkstemp(prefix="drb-command-")[1])
        port = _free_port()
        ranks = [(list(arguments), rank, world_size, port, self._log) for rank in range(world_size)]
        self._ranks = [_FORKS.Process(target=_run, args=each, daemon=True) for each in ranks]
        for rank in self._ranks:
            rank.start()

    @property
    def has_ended(self) -> bool:
        return all(rank.exitcode is not None for rank in self._ranks)

    def wait(self) -> str:
        """What it has printed, once it has ended well.

        Raises:
            RuntimeError: with all of it, if it has not.
        """
        for rank in self._ranks:
            rank.join()
        printed = self._log.read_text()
        self._log.unlink()
        if any(rank.exitcode for rank in self._ranks):
            raise RuntimeError(f"{self._name} ended with {[rank.exitcode for rank in self._ranks]}:\n{printed}")
        return printed

    def kill(self) -> None:
        """SIGKILL for all ranks."""
        for rank in self._ranks:
            rank.kill()
        for rank in self._ranks:
            rank.join()
        self._log.unlink()


def _run(arguments: list[str], rank: int, world_size: int, port: int, log: Path) -> None:
    """A rank's process."""
    with open(log, "a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if world_size > 1:
        place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
    from drb.cli import main

    raise SystemExit(main(arguments))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
