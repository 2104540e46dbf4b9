"""Reads what launchers put into the environment, by one table.

The first launcher whose marks are all set counts. Variables set by hand or by torchrun come first, so that torchrun may
itself be started by srun or mpirun. `srun --mpi=pmi2` also sets PMI_RANK; it counts as srun, which needs no MPI.

    launcher                  the ranks meet
    torchrun, or by hand      at MASTER_ADDR:MASTER_PORT
    mpirun (Open MPI, MPICH)  where rank 0 says, through MPI
    srun                      on the job's first node, at a port that follows from the job id
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_INTERACTIVE_STEP = str(0xFFFFFFFA)  # the number of the step in which salloc's shell runs
FIRST_PORT, NUM_PORTS = 15_000, 15_000  # for Slurm jobs: below the ports that Linux gives to outgoing connections


@dataclass(frozen=True)
class Address:
    """Where the ranks of a run meet.

    Attributes:
        by: `agent` (torchrun runs the store), `address` (rank 0 runs it at host:port) or `mpi` (rank 0 runs it and
            broadcasts its address).
        host, port: for by=address.
        origin: what host and port were made from, for error messages.
        attempt: which of torchrun's starts this is. torchrun's store still contains the keys of earlier starts.
    """

    by: Literal["agent", "address", "mpi"] = "address"
    host: str = ""
    port: int = 0
    origin: str = "MASTER_ADDR and MASTER_PORT"
    attempt: str = ""


@dataclass(frozen=True)
class Place:
    """This process's place in the run, as its launcher states it.

    Attributes:
        local_rank: the rank within its node; None if the launcher does not say.
        local_world_size: the number of ranks on its node.
        restarts: how often the launcher may start all ranks again after a failure.
        run_id: a name of the run that stays the same over restarts; "" if the launcher has none.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int | None = 0
    local_world_size: int = 1
    launcher: str = ""
    address: Address = Address()
    restarts: int = 0
    run_id: str = ""


@dataclass(frozen=True)
class _Launcher:
    """The names of a launcher's variables. It counts if all `marks` are set."""

    name: str
    marks: tuple[str, ...]
    rank: str
    world_size: str
    local_rank: str
    local_world_size: str
    uses_mpi: bool = False


_TORCHRUN = _Launcher("torchrun", ("RANK", "WORLD_SIZE"), "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_OPEN_MPI = _Launcher(
    "mpirun (Open MPI)",
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    uses_mpi=True,
)
_HYDRA = _Launcher(
    "mpirun (MPICH)",
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "PMI_RANK",
    "PMI_SIZE",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
    uses_mpi=True,
)
_SRUN = _Launcher(
    "srun",
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "",  # follows from SLURM_STEP_TASKS_PER_NODE
)
_PMI = _Launcher(
    "an MPI launcher",
    ("PMI_RANK", "PMI_SIZE"),
    "PMI_RANK",
    "PMI_SIZE",
    "PMI_LOCAL_RANK",
    "PMI_LOCAL_SIZE",
    uses_mpi=True,
)
LAUNCHERS = (_TORCHRUN, _OPEN_MPI, _HYDRA, _SRUN, _PMI)


def read_place(env: Mapping[str, str], *, may_be_alone: bool = False) -> Place:
    """This process's place in the run, from its environment.

    Args:
        may_be_alone: whether one process may be meant where a Slurm job has several tasks.
    Raises:
        ValueError: variables that contradict each other, or one process where a Slurm job has several tasks.
    """
    launcher = next((row for row in LAUNCHERS if all(env.get(mark) for mark in row.marks)), None)
    if launcher is None or (launcher is _SRUN and _is_shell_of_job(env)):
        _require_whole(env)
        if not may_be_alone:
            _refuse_several_tasks(env)
        return Place()
    rank, world_size = _int(env, launcher.rank), _int(env, launcher.world_size)
    if not 0 <= rank < world_size:
        raise ValueError(
            f"{launcher.rank}={rank} is not in [0, {launcher.world_size}={world_size}); start with torchrun, mpirun or "
            "srun, or set both"
        )
    local_rank = _int(env, launcher.local_rank) if env.get(launcher.local_rank) else None
    return Place(
        launcher=launcher.name,
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=_local_world_size(env, launcher),
        address=_address(env, launcher),
        restarts=_int(env, "TORCHELASTIC_MAX_RESTARTS", 0) if launcher is _TORCHRUN else 0,
        run_id=_run_id(env) if launcher is _TORCHRUN else "",
    )


def _run_id(env: Mapping[str, str]) -> str:
    """A name for the run if torchrun may restart its ranks: the one it was given, or one made from its process."""
    name = env.get("TORCHELASTIC_RUN_ID", "")
    if not name or not _int(env, "TORCHELASTIC_MAX_RESTARTS", 0):
        return ""
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name):  # made up, by --standalone
        return f"torchrun-{name[:8]}"
    if name != "none":
        return name
    agent = os.getppid()
    try:
        started = Path(f"/proc/{agent}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):  # no Linux
        started = ""
    return f"torchrun-{zlib.crc32(f'{agent} {started}'.encode()):08x}"


def head_node(node_list: str) -> str:
    """The first host of a Slurm node list, as `scontrol show hostnames` would print it; works in containers, too."""
    host, rest = "", node_list
    while match := re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?", rest):
        host += match[1] + (match[2] or "")
        rest = rest[match.end() :]
        if not match[0] or rest.startswith(","):
            break
    return host


def _address(env: Mapping[str, str], launcher: _Launcher) -> Address:
    if launcher is _TORCHRUN and env.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return Address("agent", attempt=f"{_int(env, 'TORCHELASTIC_RESTART_COUNT', 0)}-of-{env['WORLD_SIZE']}")
    host, port = env.get("MASTER_ADDR", ""), _int(env, "MASTER_PORT", 0)
    if launcher is _SRUN and not (host and port):
        node_list = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
        origin = "MASTER_ADDR and the job id" if host else f"Slurm's node list {node_list} and the job id"
        return Address("address", host or head_node(node_list), port or _port_of_job(env), origin)
    if launcher.uses_mpi and not (host and port):
        return Address("mpi", host, port, "what rank 0 said through MPI")
    return Address("address", host, port)


def _port_of_job(env: Mapping[str, str]) -> int:
    """A port that all ranks agree on. It differs between a job's steps and restarts, whose ports may be in use."""
    job, step, restart = (_int(env, f"SLURM_{name}", 0) for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    return FIRST_PORT + (job + 97 * step + 1009 * restart) % NUM_PORTS


def _local_world_size(env: Mapping[str, str], launcher: _Launcher) -> int:
    if launcher is not _SRUN:
        return _int(env, launcher.local_world_size, 1)
    per_node: list[int] = []
    for part in filter(None, env.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")):  # such as 4(x2),3
        count, _, times = part.partition("(x")
        per_node += [int(count)] * int(times.rstrip(")") or 1)
    node = _int(env, "SLURM_NODEID", 0)
    return per_node[node] if node < len(per_node) else 1


def _is_shell_of_job(env: Mapping[str, str]) -> bool:
    """Whether this process runs in the shell of an interactive job, which is a step of one task.

    `srun` sets SLURM_NTASKS to the tasks of its step; in the shell that `salloc` opens on a node it is the job's.
    """
    if _int(env, "SLURM_STEP_NUM_TASKS") != 1:
        return False
    return env.get("SLURM_STEP_ID") == _INTERACTIVE_STEP or _int(env, "SLURM_NTASKS", 1) > 1


def _require_whole(env: Mapping[str, str]) -> None:
    """Refuse half of the variables that say there are peers."""
    for given, missing in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if env.get(given):
            raise ValueError(f"{given}={env[given]} is set but {missing} is not; start with torchrun or set both")


def _refuse_several_tasks(env: Mapping[str, str]) -> None:
    """Without a launcher's variables, refuse a job that should have several ranks."""
    for name, things in (("SLURM_NTASKS", "tasks"), ("SLURM_JOB_NUM_NODES", "nodes")):
        if env.get("SLURM_JOB_ID") and _int(env, name, 1) > 1:
            raise ValueError(
                f"this Slurm job has {env[name]} {things} ({name}), but drb was started as one process, which would "
                "train alone: start it by srun, mpirun or torchrun; for one rank on purpose set RANK=0 WORLD_SIZE=1"
            )


def _int(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} must be an integer, got {text!r}") from None
