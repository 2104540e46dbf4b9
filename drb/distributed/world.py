"""This process's place in the run, and the process group. The only module that reads the environment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in its stubs

from drb.distributed.heartbeat import heartbeat, stop_heartbeat
from drb.distributed.launchers import Place, read_place
from drb.distributed.rendezvous import open_store
from drb.machine import node_name


@dataclass(frozen=True)
class World(Place):
    """This process's place in the run, and what it runs on.

    Attributes:
        node: identifies the machine (host name and boot id), so that ranks that share memory find each other.
        device: the device that this rank trains on.
    """

    node: str = "localhost"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def detect_world(device: str = "auto", env: Mapping[str, str] | None = None, *, may_be_alone: bool = False) -> World:
    """This process's place, from the launcher's variables. Opens nothing.

    Args:
        device: auto (CUDA if there is a device for this rank), cpu or cuda.
        env: the environment; os.environ if None.
        may_be_alone: whether one process may be meant where a Slurm job has several tasks.
    Raises:
        ValueError: variables contradict each other, or there is no such device.
    """
    place = read_place(os.environ if env is None else env, may_be_alone=may_be_alone)
    return World(**vars(place), node=node_name(), device=_device(device, place))


@contextlib.contextmanager
def open_world(world: World, timeout_s: float = 600.0, start_timeout_s: float = 25.0) -> Iterator[World]:
    """Open the default process group (NCCL on CUDA, Gloo on the CPU), and close it at the end.

    It is not closed after a failure, because it would wait for operations with peers that have gone. One rank needs no
    group.

    Args:
        timeout_s: bounds every collective.
        start_timeout_s: bounds the wait for all ranks to arrive.
    Raises:
        ValueError: the ranks cannot meet. PeerError: some did not arrive.
    """
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.world_size == 1:
        yield world
        return
    store = open_store(world, world.node, start_timeout_s)
    timeout = timedelta(seconds=timeout_s)
    store.set_timeout(timeout)
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=PrefixStore("default_pg", store),
        timeout=timeout,
        rank=world.rank,
        world_size=world.world_size,
    )
    heartbeat()
    yield world
    stop_heartbeat()
    dist.destroy_process_group()


def device_uuid(device: torch.device) -> str:
    """What tells a CUDA device from all others, whatever number it has in this process."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible if visible.startswith("MIG-") else uuid  # parts of one GPU may all have its UUID


def _device(name: str, place: Place) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and available == 0):
        return torch.device("cpu")
    if available == 1:  # the scheduler shows each rank its own; if ranks share it, `require_own_devices` says so
        return torch.device("cuda", 0)
    if place.local_rank is None and place.world_size > 1:
        raise ValueError(
            f"{place.launcher} does not say which rank of its node this is (LOCAL_RANK), so it cannot be given one of "
            f"{available} CUDA devices; start with torchrun or srun, show each rank its own device by "
            "CUDA_VISIBLE_DEVICES, or set device=cpu"
        )
    local_rank = place.local_rank or 0
    if local_rank >= available:
        raise ValueError(
            f"local rank {local_rank} needs a CUDA device of its own, but this machine shows {available}; "
            "start fewer ranks per node or set device=cpu"
        )
    return torch.device("cuda", local_rank)
