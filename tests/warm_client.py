"""Stands in for Python in the tests: has a process that is already warm run a module or a script, and ends as it does.

Started as `warm_client.py SOCKET ROOT [-u] (-m MODULE | SCRIPT) ARGUMENTS…` by the script that `warm_python` writes.
It also runs multiprocessing's fork server. What it is told to do otherwise (`-c`, `-W`, modules of others, what is read
when Python starts) a cold interpreter does. A process that is warm has the hash seed and the cgroup of the others,
which cannot be given to it; so one test of each launcher starts its ranks cold.
"""

import array
import json
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Mapping

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_COLD = {"PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONSAFEPATH"}


def main() -> None:
    address, root, *command = sys.argv[1:]
    if not is_warm(command, os.environ, root):
        os.execv(sys.executable, [sys.executable, *command])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        wanted = {"command": command, "cwd": os.getcwd(), "environment": dict(os.environ), "parent": os.getppid()}
        wanted["umask"] = os.umask(0)
        wanted["cores"] = list(os.sched_getaffinity(0))
        limits = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
        wanted["limits"] = [(number, resource.getrlimit(number)) for number in limits]
        wanted["ignored"] = [number for number in _FORWARDED if signal.getsignal(number) is signal.SIG_IGN]
        namespaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("uts", "net")]
        wanted["kept"] = [int(os.environ["PMI_FD"])] if "PMI_FD" in os.environ else _of_fork_server(command)
        descriptors = array.array("i", [0, 1, 2, *namespaces, *wanted["kept"]]).tobytes()
        body = json.dumps(wanted).encode()
        server.sendmsg([len(body).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        server.sendall(body)
        answers = server.makefile("r")
        pid = int(answers.readline())

        def forward(number: int, _frame: object) -> None:
            os.kill(pid, number)

        for number in _FORWARDED:  # those that are ignored here as well: the rank may listen to them
            signal.signal(number, forward)
        status = int(answers.readline() or -signal.SIGKILL)
    if status < 0:  # a signal ended it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def is_warm(command: list[str], environment: Mapping[str, str], root: str) -> bool:
    """Whether a process that has imported what `preload` names, with one thread, can run this as a cold one does."""
    is_of_checkout = environment.get("PYTHONPATH", "").split(os.pathsep)[0] == root
    if not is_of_checkout or environment.get("OMP_NUM_THREADS") != "1" or _COLD & environment.keys():
        return False
    if command[:1] == ["-u"]:
        command = command[1:]
    if _of_fork_server(command):
        return True
    if command[:1] == ["-m"]:
        return command[1].split(".")[0] in ("drb", "faults", "torch")
    return bool(command) and command[0].endswith(".py")


def _of_fork_server(command: list[str]) -> list[int]:
    """What multiprocessing gives to the fork server that it starts by this command: a listener and a pipe."""
    code = command[command.index("-c") + 1] if "-c" in command[:2] else ""
    found = re.match(r"from multiprocessing\.forkserver import main; main\((\d+), (\d+), ", code)
    return [int(number) for number in found.groups()] if found else []


if __name__ == "__main__":
    main()
