"""Who this process is among its peers. The only reader of launchers' environment variables."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process's place in the run.

    node names the machine (host name and boot id), so that ranks that share memory can find each other.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node: str = "localhost"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def node_name() -> str:
    """Host name and boot id: two containers of one machine agree, two machines never do."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot_id = file.read().strip()
    except OSError:
        boot_id = "unknown"
    return f"{socket.gethostname()}/{boot_id}"


def detect_world(device: str = "auto", env: Mapping[str, str] | None = None) -> World:
    """Read the launcher's variables; opens nothing.

    Args:
        device: auto (CUDA where there is one for this rank), cpu or cuda.
    Raises:
        ValueError: variables that contradict each other, or a device that is not there.
    """
    env = os.environ if env is None else env
    rank, world_size = _int(env, "RANK", 0), _int(env, "WORLD_SIZE", 1)
    local_rank, local_world_size = _int(env, "LOCAL_RANK", 0), _int(env, "LOCAL_WORLD_SIZE", 1)
    if not 0 <= rank < world_size:
        raise ValueError(f"RANK={rank} is not in [0, WORLD_SIZE={world_size}); start with torchrun or set both")
    return World(rank, world_size, local_rank, local_world_size, node_name(), _device(device, local_rank))


@contextlib.contextmanager
def open_world(world: World, timeout_s: float = 600.0) -> Iterator[World]:
    """Open the default process group (NCCL on CUDA, Gloo on CPU) and close it at the end.

    One rank without a launcher needs no group. timeout_s bounds every collective.
    """
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.world_size == 1:
        yield world
        return
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), rank=world.rank, world_size=world.world_size)
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _int(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} must be an integer, got {text!r}") from None


def _device(name: str, local_rank: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and available == 0):
        return torch.device("cpu")
    if local_rank >= available:
        raise ValueError(
            f"local rank {local_rank} needs a CUDA device of its own, but this machine shows {available}; "
            "start fewer ranks per node or set device=cpu"
        )
    return torch.device("cuda", local_rank)
