"""Checks at the start that all ranks share what they must, and nothing that they must not.

They must run the same code with the same libraries and see the same run directory; each must have a CUDA device of its
own. Unequal ranks would learn something wrong, or fail hours later at the first checkpoint. File systems between nodes
may show a file late, so what another rank has written is waited for.

With several ranks all functions need the default process group, and every rank calls them in the same order.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from drb.distributed.agreement import raise_on_all_ranks, value_of_main
from drb.distributed.heartbeat import default_store
from drb.distributed.world import World, device_uuid

PATIENCE_S = 60.0  # how late a file system between nodes may show what another node has written
_RETRY_S = 0.1
_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = ("torchvision", "pillow")  # they decode images, beside what every run uses


def await_folder(folder: Path, patience_s: float = PATIENCE_S) -> bool:
    """Wait until a folder that another rank has made is seen here; returns whether it is."""
    return _await(folder.is_dir, folder, patience_s)


def require_same_software(world: World) -> None:
    """Compare drb's code and the versions of its libraries with rank 0's. Collective.

    Raises:
        ValueError: on every rank, naming the lowest rank that differs and both ranks' versions.
    """
    if world.world_size == 1:
        return
    own = software()
    main: dict[str, str] = json.loads(value_of_main("software", json.dumps(own), world))
    found = [
        f"{name} {own.get(name, 'missing')} (rank 0: {main.get(name, 'missing')})"
        for name in {**main, **own}
        if own.get(name) != main.get(name)
    ]
    problem = (
        f"rank {world.rank}, on {socket.gethostname()}, runs with {', '.join(found)}; install the same drb and the "
        "same libraries on all nodes"
    )
    raise_on_all_ranks("drb/software", problem if found else None, world)


def software() -> dict[str, str]:
    """The versions of what decides a run's result, and a hash of drb's own code."""
    found = {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "drb's code": _hash_of_code(),
    }
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203 - two names
            continue
    return found


def _hash_of_code() -> str:
    """Eight hexadecimal digits of a hash of drb's Python files, by their paths in the package."""
    digest = hashlib.blake2b(digest_size=4)
    for file in sorted(_PACKAGE.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(_PACKAGE)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def require_own_devices(world: World) -> None:
    """Check that no two ranks have the same CUDA device, by the devices' UUIDs. Collective.

    Raises:
        ValueError: on every rank, naming two ranks that share a device.
    """
    if world.world_size == 1:
        return
    problem = None
    if world.device.type == "cuda":
        uuid = device_uuid(world.device)
        first = int(default_store().compare_set(f"drb/device/{uuid}", "", str(world.rank)))
        if first != world.rank:
            problem = (
                f"ranks {min(first, world.rank)} and {max(first, world.rank)} share one CUDA device, {uuid} of "
                f"{socket.gethostname()}; start fewer ranks per node, show each rank its own device, or set device=cpu"
            )
    raise_on_all_ranks("drb/device", problem, world)


def require_shared_folder(folder: Path, world: World, timeout_s: float) -> None:
    """Check that what each rank writes into a folder is seen by rank 0, and what rank 0 writes by all. Collective.

    Args:
        folder: it exists on rank 0.
        timeout_s: the timeout of the default group; a check waits at most 60 s, and less than that.
    Raises:
        ValueError: on every rank, naming a rank that does not share the folder.
    """
    if world.world_size == 1:
        return
    patience_s = min(PATIENCE_S, 0.7 * timeout_s)
    probe = folder / value_of_main("probe", f".probe-{os.urandom(4).hex()}", world)
    try:
        problem = _try(lambda: probe.mkdir(), folder, world) if world.is_main else None
        raise_on_all_ranks("drb/probe/begin", problem, world)
        problem = None if await_folder(probe, patience_s) else _unseen(probe, 0, world, patience_s)
        if problem is None:
            problem = _try(lambda: (probe / str(world.rank)).touch(), folder, world)
        raise_on_all_ranks("drb/probe/write", problem, world)
        problem = None
        if world.is_main:
            deadline = time.monotonic() + patience_s
            for rank in range(world.world_size):
                file = probe / str(rank)
                if not _await(file.exists, file, deadline - time.monotonic()):
                    problem = _unseen(file, rank, world, patience_s)
                    break
        raise_on_all_ranks("drb/probe/read", problem, world)
    finally:
        if world.is_main:
            shutil.rmtree(probe, ignore_errors=True)


def _try(action: Callable[[], object], folder: Path, world: World) -> str | None:
    try:
        action()
    except OSError as error:
        return f"rank {world.rank}, on {socket.gethostname()}, cannot write in {folder}: {error.strerror or error}"
    return None


def _unseen(path: Path, writer: int, world: World, patience_s: float) -> str:
    return (
        f"rank {world.rank}, on {socket.gethostname()}, does not see {path}, which rank {writer} has written, within "
        f"{patience_s:.0f} s: checkpoints need a run directory that all ranks share; set hydra.run.dir to a folder on "
        "a file system of all nodes, or checkpoint.enabled=false"
    )


def _await(is_there: Callable[[], bool], path: Path, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not is_there():
        if time.monotonic() > deadline:
            return False
        time.sleep(_RETRY_S)
        if path.parent.is_dir():
            os.listdir(path.parent)  # NFS remembers that a name is not there until the folder is read again
    return True
