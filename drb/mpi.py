"""The one door to MPI: mpi4py is imported here, and only when it is asked for.

mpi4py brings no MPI library of its own, and an mpirun of another MPI than the library starts N worlds of one rank
each: both are said in one sentence.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

_MESSAGE_BYTES = 1024
_POLL_S = 0.005


def load_mpi(purpose: str) -> Any:
    """mpi4py's `MPI`, initialised with the highest thread level there is. `purpose` opens the error.

    Raises:
        ValueError: mpi4py or an MPI library is missing.
    """
    try:
        from mpi4py import MPI
    except ModuleNotFoundError:
        raise ValueError(f"{purpose} needs mpi4py, which is not installed: pip install 'drb-train[mpi]'") from None
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{purpose} needs an MPI library, and mpi4py can load none ({reason}): load your site's MPI module, name "
            "its libmpi.so in MPI4PY_LIBMPI, or pip install mpich"
        ) from None
    if not MPI.Is_initialized():  # someone set mpi4py.rc.initialize = False
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


def library_name(mpi: Any) -> str:
    """Such as 'MPICH 4.2' or 'Open MPI v5.0.11'."""
    text = mpi.Get_library_version().split("\n")[0].split(",")[0]
    return " ".join(text.replace("Version:", "").split()).strip("\0")


def require_one_world(mpi: Any, launcher: str, rank: int, world_size: int) -> None:
    """Raise ValueError unless MPI sees the world that its launcher announced."""
    comm = mpi.COMM_WORLD
    if (comm.size, comm.rank) != (world_size, rank):
        raise ValueError(
            f"{launcher} started rank {rank} of {world_size}, but mpi4py's {library_name(mpi)} sees itself as rank "
            f"{comm.rank} of {comm.size}: this mpirun belongs to another MPI; use the one of that library, or name the "
            "launcher's libmpi.so in MPI4PY_LIBMPI"
        )


def broadcast_json(mpi: Any, value: Any, timeout_s: float) -> Any:
    """Rank 0's JSON value on every rank of MPI's world.

    Raises:
        TimeoutError: rank 0 did not say anything in time.
    """
    buffer = np.zeros(_MESSAGE_BYTES, np.uint8)
    if mpi.COMM_WORLD.rank == 0:
        text = json.dumps(value).encode()
        buffer[: len(text)] = np.frombuffer(text, np.uint8)
    wait_for(mpi.COMM_WORLD.Ibcast(buffer, root=0), timeout_s, "rank 0's address")
    return json.loads(buffer.tobytes().rstrip(b"\0"))


def wait_for(request: Any, timeout_s: float, what: str) -> None:
    """MPI's own waits have no timeout. It polls: only for set-up and the end, where nothing is being trained."""
    deadline = time.monotonic() + timeout_s
    while not request.Test():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come through MPI within {timeout_s:g} s")
        time.sleep(_POLL_S)
