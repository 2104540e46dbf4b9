"""Who this process is among its peers. The only reader of the environment; see `launchers` for what is in it."""

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

    node names the machine (host name and boot id), so that ranks that share memory can find each other.
    """

    node: str = "localhost"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def detect_world(device: str = "auto", env: Mapping[str, str] | None = None) -> World:
    """Read the launcher's variables; opens nothing.

    Args:
        device: auto (CUDA where there is one for this rank), cpu or cuda.
    Raises:
        ValueError: variables that contradict each other, or a device that is not there.
    """
    place = read_place(os.environ if env is None else env)
    return World(**vars(place), node=node_name(), device=_device(device, place))


@contextlib.contextmanager
def open_world(world: World, timeout_s: float = 600.0, start_timeout_s: float = 25.0) -> Iterator[World]:
    """Open the default process group (NCCL on CUDA, Gloo on CPU) and close it at the end, unless that is a failure.

    After a failure it would wait for operations that are still under way with peers that have gone.

    One rank needs no group. start_timeout_s bounds the wait for all ranks to arrive, timeout_s every collective.

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


def _device(name: str, place: Place) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and available == 0):
        return torch.device("cpu")
    if place.local_rank is None and place.world_size > 1:
        raise ValueError(
            f"{place.launcher} does not say which rank of its node this is, so it cannot be given a CUDA device; "
            "start with torchrun or srun, or set device=cpu"
        )
    if place.own_gpu and available == 1:
        return torch.device("cuda", 0)
    local_rank = place.local_rank or 0
    if local_rank >= available:
        raise ValueError(
            f"local rank {local_rank} needs a CUDA device of its own, but this machine shows {available}; "
            "start fewer ranks per node or set device=cpu"
        )
    return torch.device("cuda", local_rank)
