"""Puts one fault into this process: the function that it strikes is wrapped, drb itself knows nothing of it."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import inspect
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.plan import Fault

_HEADROOM = 96 << 20  # of address space that is left to a process that ran out of memory, for threads it starts


class InjectedError(Exception):
    """What an `exception` fault raises."""


def inject(fault: Fault, struck: Path) -> None:
    """Let the fault strike this process. struck: a file that is made when it does, with the time in it."""
    owner, name, original = find_place(fault.place)
    wrap = _each_item if inspect.isgeneratorfunction(original) or fault.target == "loader" else _each_call
    setattr(owner, name, wrap(original, _Counter(fault, struck)))


def find_place(place: str) -> tuple[Any, str, Callable[..., Any]]:
    """Of "module:attribute": the module or class, the name in it, and what has this name.

    Raises ImportError or AttributeError if drb has no such thing.
    """
    module_name, _, path = place.partition(":")
    owner: Any = importlib.import_module(module_name)
    *owners, name = path.split(".")
    for part in owners:
        owner = getattr(owner, part)
    return owner, name, getattr(owner, name)


class _Counter:
    """Counts calls, from any thread, and strikes at the right one."""

    def __init__(self, fault: Fault, struck: Path) -> None:
        self._fault = fault
        self._struck = struck
        self._lock = threading.Lock()
        self._calls = 0

    def before(self, *arguments: Any) -> None:
        with self._lock:
            self._calls += 1
            self._is_it = self._calls == self._fault.call
        if self._is_it and not self._fault.after:
            self._strike(arguments)

    def after(self, *arguments: Any) -> None:
        if self._calls == self._fault.call and self._fault.after:
            self._strike(arguments)

    def _strike(self, arguments: tuple[Any, ...]) -> None:
        self._struck.write_text(f"{time.time()}")
        ACTS[self._fault.kind](arguments)


def _each_call(original: Callable[..., Any], counter: _Counter) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        counter.before(*arguments)
        result = original(*arguments, **options)
        counter.after(*arguments)
        return result

    return wrapped


def _each_item(original: Callable[..., Any], counter: _Counter) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        for item in original(*arguments, **options):
            counter.before(*arguments)
            yield item
            counter.after(*arguments)

    return wrapped


def _kill(arguments: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(arguments: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _run_out_of_memory(arguments: tuple[Any, ...]) -> None:
    """A real failed allocation; the limit stays."""
    import torch

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    torch.empty(4 * _HEADROOM, dtype=torch.uint8)


def _raise(arguments: tuple[Any, ...]) -> None:
    raise InjectedError(f"on purpose, in thread {threading.current_thread().name}")


def _fill_disk(arguments: tuple[Any, ...]) -> None:
    """To the last byte. The run directory lies on a file system of its own."""
    path = Path(os.environ["FAULTS_DISK"], "filler")
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def _cut_file(arguments: tuple[Any, ...]) -> None:
    path = Path(arguments[1][0])  # the first of those that are to be decoded
    os.truncate(path, path.stat().st_size // 3)


def _kill_server(arguments: tuple[Any, ...]) -> None:
    os.kill(int(os.environ["FAULTS_SERVER"]), signal.SIGKILL)


def _keep_folders(arguments: tuple[Any, ...]) -> None:
    """No directory can be deleted any more, as on a network file system while files in it are open elsewhere."""

    def fail(path: Any, **options: Any) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    os.rmdir = fail


def _nothing(arguments: tuple[Any, ...]) -> None:
    pass


ACTS: dict[str, Callable[[tuple[Any, ...]], None]] = {
    "kill": _kill,
    "stop": _stop,
    "memory": _run_out_of_memory,
    "exception": _raise,
    "disk_full": _fill_disk,
    "unreadable_file": _cut_file,
    "server_gone": _kill_server,
    "undeletable": _keep_folders,
    "shm_small": _nothing,  # it is small from the start
    # the run is killed; what is damaged then is its newest checkpoint
    "cut_short": _kill,
    "kill_importing": _kill,
    "odd_json": _kill,
    "pipe": _kill,
    "flipped_byte": _kill,
    "other_version": _kill,
    "other_config": _kill,
}


def main() -> int:
    """A rank under torchrun: FAULTS_FAULT has the fault, which strikes only before a first restart."""
    import json

    fault = Fault(**json.loads(os.environ["FAULTS_FAULT"]))
    is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if is_first and int(os.environ["RANK"]) == fault.rank:
        inject(fault, Path(os.environ["FAULTS_STRUCK"]))
    from drb.train import main as train

    return train(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
