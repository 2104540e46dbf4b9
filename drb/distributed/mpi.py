"""The only module that imports mpi4py, and only when MPI is used.

mpi4py brings no MPI library of its own, and an mpirun of another MPI than the library starts N worlds of one rank each.
Both cases end with one sentence.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np

_MESSAGE_BYTES = 1024
_POLL_S = 0.005
_REMEDY = (
    "this mpirun belongs to another MPI, and every rank would be a world of its own; use the mpirun of mpi4py's "
    "library, or name the launcher's libmpi.so in MPI4PY_LIBMPI"
)


def load_mpi(purpose: str, launcher: str = "") -> Any:
    """mpi4py's `MPI`, initialised with the highest available thread level.

    Args:
        purpose: how an error message begins.
        launcher: the name of the launcher, "" if it is not MPI's.

    Raises:
        ValueError: mpi4py or an MPI library is missing, or the launcher is another MPI's.
    """
    mpi = _import_mpi(purpose)
    if not mpi.Is_initialized():
        _require_kin(mpi, launcher)  # MPICH's MPI_Init would end the process under Open MPI's mpirun
        mpi.Init_thread(mpi.THREAD_MULTIPLE)
    return mpi


def finalize_mpi() -> None:
    """Call MPI_Finalize before a process ends normally, if it has used MPI. Collective."""
    module = sys.modules.get("mpi4py.MPI")
    if module is not None and module.Is_initialized() and not module.Is_finalized():
        module.Finalize()


def library_name(mpi: Any) -> str:
    """The name of the MPI library, for example 'MPICH 4.2' or 'Open MPI v5.0.11'."""
    text = mpi.Get_library_version().strip("\0").split("\n")[0].split(",")[0]
    return " ".join(text.replace("Version:", "").split())


def require_one_world(mpi: Any, launcher: str, rank: int, world_size: int) -> None:
    """Raise ValueError unless MPI sees the world that its launcher announced."""
    comm = mpi.COMM_WORLD
    if (comm.size, comm.rank) != (world_size, rank):
        raise ValueError(
            f"{launcher} started rank {rank} of {world_size}, but mpi4py's {library_name(mpi)} sees itself as rank "
            f"{comm.rank} of {comm.size}: {_REMEDY}"
        )


def _import_mpi(purpose: str) -> Any:
    """mpi4py's `MPI`, not initialised by this call."""
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a foreign launcher: said in one sentence below
            from mpi4py import MPI
    except ModuleNotFoundError:
        raise ValueError(f"{purpose} needs mpi4py, which is not installed: pip install 'drb-train[mpi]'") from None
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{purpose} needs an MPI library, and mpi4py can load none ({reason}): load your site's MPI module, name "
            "its libmpi.so in MPI4PY_LIBMPI, or pip install mpich"
        ) from None
    return MPI


def _require_kin(mpi: Any, launcher: str) -> None:
    library = library_name(mpi)
    if ("Open MPI" in launcher and "MPICH" in library) or ("MPICH" in launcher and "Open MPI" in library):
        raise ValueError(f"{launcher} started this rank, but mpi4py's library is {library}: {_REMEDY}")


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
    """Wait for an MPI request with a timeout, which MPI's own waits do not have.

    It polls, so it is only for set-up and the end, where nothing is being trained.
    """
    deadline = time.monotonic() + timeout_s
    while not request.Test():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come through MPI within {timeout_s:g} s")
        time.sleep(_POLL_S)
