"""Python for the processes that a program under test starts: 0.3 s of processor time instead of 3 to 5.

torchrun, Slurm, mpirun, studies and the demo start their ranks by a command. Where the tests give them `warm_python()`
as the interpreter, each rank is forked from one process that has already imported what `preload` names. The command
stays a process of its own, which passes signals on and ends as the rank ends; if it is killed, the rank is, too.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import json
import os
import resource
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER, _OWNER = "DRB_TESTS_WARM_PYTHON", "DRB_TESTS_SESSION"  # the workers of one pytest session share one server
_ABOVE_ALL = 200  # a descriptor that no command knows by its number


def open_session() -> Callable[[], None]:
    """Make the folder of `warm_python`, once for all workers; what is returned takes it away."""
    folder = tempfile.mkdtemp(prefix="drb-test-python-")
    os.environ |= {_FOLDER: folder, _OWNER: str(os.getpid())}
    return lambda: shutil.rmtree(folder, ignore_errors=True)


def warm_python() -> str:
    """The path of an executable that takes Python's arguments."""
    folder = Path(os.environ[_FOLDER])
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "python").exists():
            _start(folder)
    return str(folder / "python")


def _start(folder: Path) -> None:
    address = folder / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)  # clients wait in here until everything is imported
    paths = os.pathsep.join([str(_ROOT), str(_ROOT / "tests")])
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), os.environ[_OWNER]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            start_new_session=True,
        )
    server.returncode = 0  # it ends with the session, and nobody waits for it
    listener.close()
    client = [sys.executable, "-IS", str(_ROOT / "tests/warm_client.py"), str(address), str(_ROOT)]
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
    python.chmod(0o755)


class _Server:
    """Forks a process for each client, tells it the process id and at last how it ended; single-threaded."""

    def __init__(self, listener: socket.socket, owner: int) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._fork)
        self._selector.register(os.pidfd_open(owner), selectors.EVENT_READ, self._end)
        self._clients: dict[int, socket.socket] = {}

    def serve(self) -> None:
        while True:
            for key, _events in self._selector.select():
                key.data()

    def _fork(self) -> None:
        client, _address = self._listener.accept()
        header, descriptors, _flags, _address = socket.recv_fds(client, 8, 7)
        if not header:  # it was killed before it could say anything
            return client.close()
        body = client.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
        pid = os.fork()
        if pid == 0:
            for each in (self._listener, self._selector, client, *self._clients.values()):
                each.close()
            _serve_client(json.loads(body), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._clients[pid] = client
        ended = os.pidfd_open(pid)
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._tell(pid, ended))
        self._selector.register(client, selectors.EVENT_READ, lambda: self._kill(pid))
        with contextlib.suppress(OSError):
            client.sendall(f"{pid}\n".encode())

    def _kill(self, pid: int) -> None:
        """The client is gone, maybe because the process has just ended."""
        if pid in self._clients:
            self._selector.unregister(self._clients[pid])
            os.kill(pid, signal.SIGKILL)

    def _tell(self, pid: int, ended: int) -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._selector.unregister(ended)
        os.close(ended)
        client = self._clients.pop(pid)
        with contextlib.suppress(KeyError):
            self._selector.unregister(client)
        with contextlib.suppress(OSError):
            client.sendall(f"{status}\n".encode())
        client.close()

    def _end(self) -> NoReturn:
        """The session is over."""
        for pid in self._clients:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(Path(self._listener.getsockname()).parent, ignore_errors=True)
        sys.exit()


def _serve_client(wanted: dict[str, Any], descriptors: list[int]) -> NoReturn:
    os.setpgid(0, 0)
    os.umask(wanted["umask"])
    os.sched_setaffinity(0, wanted["cores"])
    for number in wanted["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.getppid = lambda: wanted["parent"]
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _ABOVE_ALL) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    outputs, (uts, net, *kept) = moved[:3], moved[3:]
    for descriptor, number in zip(kept, wanted["kept"], strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for descriptor, name in ((uts, "uts"), (net, "net")):  # a virtual node of Slurm has its own host name
        if not os.path.samestat(os.fstat(descriptor), os.stat(f"/proc/self/ns/{name}")):
            assert ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) == 0, os.strerror(ctypes.get_errno())
        os.close(descriptor)
    for number, limits in wanted["limits"]:
        if resource.getrlimit(number) != tuple(limits):
            resource.setrlimit(number, limits)
    run_as_python(wanted["command"], wanted["cwd"], wanted["environment"], outputs)


def run_as_python(
    command: list[str], cwd: str | Path, environment: dict[str, str], descriptors: Sequence[int]
) -> NoReturn:
    """Do what a new interpreter does with these arguments, input and outputs; in a process forked for it."""
    os.environ.clear()
    os.environ.update(environment)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    tempfile.tempdir = None  # TMPDIR says where
    sys.executable = environment.get("PYTHON_EXEC", sys.executable)
    if command[0] == "-u":
        command, environment = command[1:], environment | {"PYTHONUNBUFFERED": "1"}
    _open_outputs(bool(environment.get("PYTHONUNBUFFERED")))
    np.random.seed()  # noqa: NPY002 - forked processes have one state, which would hide draws without a seed
    code = 1
    try:
        _run_main(command, environment["PYTHONPATH"].split(os.pathsep))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        if mpi := sys.modules.get("mpi4py.MPI"):  # MPI says goodbye when C's exit is called
            mpi.Is_initialized() and not mpi.Is_finalized() and mpi.Finalize()
            ctypes.CDLL(None).exit(code & 0xFF)
    finally:
        os._exit(code & 0xFF)


def _open_outputs(is_unbuffered: bool) -> None:
    for name, number, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        stream = open(number, "w", errors=errors, closefd=False)  # noqa: SIM115
        stream.reconfigure(line_buffering=number == 2 or os.isatty(number), write_through=is_unbuffered)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run_main(command: list[str], paths: list[str]) -> None:
    """`-m MODULE ARGUMENTS…`, `-c CODE` or `SCRIPT ARGUMENTS…`.

    paths: PYTHONPATH; without the tests' they are not found.
    """
    own = {"", str(_ROOT), str(_ROOT / "tests")}
    sys.path[:] = [*paths, *(path for path in sys.path if path not in own)]
    if "-c" in command[:2]:  # maybe after -B
        exec(command[command.index("-c") + 1], {})
    elif command[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = command[1:]
        sys.modules.pop(command[1], None)  # runpy warns of a main module that was imported before
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(command[0]).resolve().parent))
        sys.argv = command
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.__file__ = os.path.join(os.getcwd(), command[0])
        exec(compile(Path(command[0]).read_bytes(), main.__file__, "exec"), vars(main))


if __name__ == "__main__":
    import preload  # noqa: F401 - what it imports is what is forked

    _Server(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])).serve()
