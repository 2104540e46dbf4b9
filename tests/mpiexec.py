"""Run one function on N ranks that a real mpiexec has started, in a world that drb has opened.

As a program (`python launch.py FOLDER`) it is what each rank runs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pickle
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from warm_python import warm_python

ROOT = Path(__file__).resolve().parents[1]
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent))


def missing() -> str:
    """Why nothing can be run here; empty if it can."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed (pip install -e .[mpi])"
    return "" if MPIEXEC else "there is no mpiexec beside this Python (pip install -e .[mpi])"


def environment(**changes: str) -> dict[str, str]:
    """This process's, with drb and the tests importable, one thread per rank and no other launcher's variables."""
    launchers = ("SLURM_", "PMI", "OMPI_", "MPI_LOCAL", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**env, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **changes}


def run_program(
    command: Sequence[Any],
    *,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[int, str]:
    """Exit code and everything printed; nothing of it is left when this returns."""
    started = subprocess.Popen(
        [str(part) for part in command],
        env=environment(**(env or {})),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        family = psutil.Process(started.pid).children(recursive=True)
        os.killpg(started.pid, signal.SIGKILL)
        for process in family:  # mpiexec gives its ranks sessions of their own
            process.kill()
        output, _ = started.communicate()
        raise AssertionError(f"{' '.join(map(str, command))} did not end in {timeout:g} s:\n{output}") from None
    finally:
        if started.returncode != 0:
            _remove_segments()
    return started.returncode, output


def _remove_segments() -> None:
    """MPICH's own segments of ranks that were killed: those that no process maps."""
    segments = list(Path("/dev/shm").glob("mpich_shm_*"))
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it has just ended
            mapped += maps.read_text()
    for segment in segments:
        if segment.name not in mapped:
            segment.unlink(missing_ok=True)


def run_mpi(
    world_size: int,
    *calls: tuple[Callable[..., Any], tuple[Any, ...]],
    tmp_path: Path,
    timeout: float = 60.0,
    **env: str,
) -> list[list[Any]]:
    """Each call is fn(rank, world_size, *args) on every rank, one by one; per call, the results by rank."""
    named = [(fn.__module__, fn.__qualname__, args) for fn, args in calls]
    (tmp_path / "calls").write_bytes(pickle.dumps(named))
    command = [MPIEXEC, "-n", str(world_size), warm_python(), __file__, tmp_path]
    code, output = run_program(command, timeout=timeout, env=env)
    assert code == 0, output
    per_rank = [pickle.loads((tmp_path / f"rank{rank}").read_bytes()) for rank in range(world_size)]
    return [list(results) for results in zip(*per_rank, strict=True)]


def main(folder: Path) -> None:
    import torch

    from drb.distributed.world import detect_world, open_world

    torch.set_num_threads(1)
    results = []
    with open_world(detect_world("cpu"), timeout_s=30.0, start_timeout_s=30.0) as world:
        for module, name, args in pickle.loads((folder / "calls").read_bytes()):
            function = getattr(importlib.import_module(module), name)
            results.append(function(world.rank, world.world_size, *args))
    (folder / f"rank{world.rank}").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
