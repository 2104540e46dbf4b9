"""Training steps on one device, with and without rehearsal, that can be timed side by side.

Letters: b rows of a minibatch, r exemplars of a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from drb import Rehearsal
from drb.training.models import build_model

CLASSES = 10
_LAPS = 12_000  # minibatches until a sample id comes again


@dataclass(frozen=True)
class Job:
    """b, r: rows of a minibatch and exemplars of a step. steps: of a block. batches: different minibatches.

    capacity: exemplars of a rank's buffer. turns: how often every kind of step runs a block, if there is time.
    from_host: also with minibatches that lie on the host; not where the GPU's time hides all that the host does.
    inline: also with rounds on the training thread, as one rank has them only if its rows lie on the GPU.
    """

    model: str
    shape: tuple[int, int, int]
    b: int
    r: int
    steps: int
    batches: int
    turns: int
    capacity: int = 2000
    from_host: bool = True
    inline: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.model.startswith("resnet") else torch.contiguous_format


_LARGE, _SMALL = (3, 224, 224), (3, 32, 32)
JOBS = {  # the first are measured even if time is short
    "cnn 56+7": Job("cnn", _SMALL, 56, 7, 100, 64, 14, inline=True),
    "resnet18 256+32": Job("resnet18", _LARGE, 256, 32, 50, 8, 4, from_host=False),
    "resnet50 256+32": Job("resnet50", _LARGE, 256, 32, 50, 8, 3, from_host=False),
    "cnn 256+32": Job("cnn", _SMALL, 256, 32, 100, 32, 10),
    "resnet18 56+7": Job("resnet18", _LARGE, 56, 7, 60, 24, 5),
    "resnet50 56+7": Job("resnet50", _LARGE, 56, 7, 50, 24, 4),
}
TINY = {"cnn 6+2": Job("cnn", _SMALL, 6, 2, 3, 4, 2, capacity=20)}  # shows on a CPU that the check itself runs


class Data:
    """Random images on the device and page-locked on the host, whose first bytes say which one it is.

    Bytes 0 to 3 are the image's number, byte 4 its rank. Sample ids are this rank's numbers, times W, plus the rank.
    """

    def __init__(self, job: Job, device: torch.device, rank: int = 0, world_size: int = 1) -> None:
        self.device, self.rank, self.world_size = device, rank, world_size
        self.rows = job.batches * job.b
        number = torch.arange(job.batches * (job.b + job.r), device=device)
        generator = torch.Generator(device=device).manual_seed(rank)
        images = torch.randint(0, 256, (len(number), *job.shape), dtype=torch.uint8, device=device, generator=generator)
        for place in range(4):
            images[:, 0, 0, place] = ((number >> (8 * place)) & 255).to(torch.uint8)
        images[:, 0, 0, 4] = rank
        ids = torch.arange(job.b * _LAPS, device=device) * world_size + rank
        self.there = {"image": images, "label": _label(number, rank), "sample_id": ids}
        self.here = {name: _pinned(value) for name, value in self.there.items()}

    def num_wrong(self, batch: Mapping[str, Tensor]) -> int:
        """Rows whose image or label is not that of their sample id."""
        ids, label = batch["sample_id"].cpu(), batch["label"].cpu()
        image = batch["image"][:, 0, 0, :5].cpu().long()
        rank, number = ids % self.world_size, ids // self.world_size % self.rows
        found = sum(image[:, place] << (8 * place) for place in range(4))
        return int(((found != number) | (image[:, 4] != rank) | (label != _label(number, rank))).sum())


class Kind:
    """One kind of training step: DDP in bfloat16 on minibatches of `rows`, extended by `extender` if there is one."""

    def __init__(self, job: Job, data: Data, rows: int, *, from_host: bool, extender: Rehearsal | None = None) -> None:
        self.extender = extender
        self._job, self._data, self._rows, self._step = job, data, rows, 0
        self._source = data.here if from_host else data.there
        network = build_model(job.model, job.shape, CLASSES).to(data.device).to(memory_format=job.memory_format)
        devices = [data.device] if data.device.type == "cuda" else None
        self._model = DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.001, momentum=0.9)

    def minibatch(self) -> dict[str, Tensor]:
        rows, ids = self._rows, self._source["sample_id"]
        first = self._step % self._job.batches * rows
        first_id = self._step * rows % (len(ids) // rows * rows)
        self._step += 1
        return {
            "image": self._source["image"][first : first + rows],
            "label": self._source["label"][first : first + rows],
            "sample_id": ids[first_id : first_id + rows],
        }

    def batch(self) -> dict[str, Tensor]:
        batch = self.minibatch()
        if self.extender is not None:
            batch = self.extender.extend(batch)
        if batch["image"].device != self._data.device:
            batch = {name: value.to(self._data.device, non_blocking=True) for name, value in batch.items()}
        return batch

    def step(self) -> None:
        batch = self.batch()
        images = batch["image"].to(torch.float32).mul_(4 / 255).sub_(2)
        images = images.contiguous(memory_format=self._job.memory_format)
        with torch.autocast(self._data.device.type, torch.bfloat16):
            loss = F.cross_entropy(self._model(images), batch["label"])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


@dataclass(frozen=True)
class Way:
    """How a loop gives minibatches and gets them back. settings: of the `Rehearsal`."""

    from_host: bool
    settings: Mapping[str, Any]


def ways_of(job: Job, device: torch.device) -> dict[str, Way]:
    """The ways in which a job's steps are run."""
    return {
        name: way
        for name, way in ways(device).items()
        if (job.from_host or not way.from_host) and (job.inline or "asynchronous" not in way.settings)
    }


def ways(device: torch.device) -> dict[str, Way]:
    """The ways that this drb and this device know."""
    there = {"device": "cuda"} if device.type == "cuda" else {}
    known = {
        "on the gpu": Way(False, {"storage": "host"}),
        "on the gpu, inline": Way(False, {"storage": "host", "asynchronous": False}),
        "pinned": Way(True, {"storage": "host"}),
        "device=": Way(True, {"storage": "host", **there}),
        "stored on the gpu": Way(False, {"storage": "device", **there}),
        "device=, stored on the gpu": Way(True, {"storage": "device", **there}),
    }
    takes = inspect.signature(Rehearsal).parameters.keys()
    wants_gpu = device.type != "cuda"
    return {
        name: way
        for name, way in known.items()
        if way.settings.keys() <= takes and not (wants_gpu and way.settings["storage"] == "device")
    }


@contextmanager
def kinds_of(job: Job, data: Data, chosen: Mapping[str, Way], **settings: Any) -> Iterator[dict[str, Kind]]:
    """The plain steps on b + r, each twice (for A/A), and those with rehearsal, buffers full."""
    rows = job.b + job.r
    with ExitStack() as stack:
        kinds = {
            "plain": Kind(job, data, rows, from_host=False),
            "plain again": Kind(job, data, rows, from_host=False),
        }
        if any(way.from_host for way in chosen.values()):
            kinds["plain from the host"] = Kind(job, data, rows, from_host=True)
        for name, way in chosen.items():
            options = {"capacity": job.capacity, "exemplars": job.r, "batch_size": job.b, "verbose": False}
            rehearsal = stack.enter_context(Rehearsal(**{**options, **settings, **way.settings}))
            kinds[name] = Kind(job, data, job.b, from_host=way.from_host, extender=rehearsal)
            for _ in range(job.capacity // job.b + 12):
                kinds[name].batch()
        yield kinds


def baseline_of(name: str, chosen: Mapping[str, Way]) -> str | None:
    """The plain kind that a kind is compared with."""
    if name in chosen:
        return "plain from the host" if chosen[name].from_host else "plain"
    return "plain" if name == "plain again" else None


@contextmanager
def group(device: torch.device, rank: int = 0, world_size: int = 1, store: str = "") -> Iterator[None]:
    """A process group for gradients: NCCL for one rank on a GPU, else Gloo, since NCCL refuses ranks that share one."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" and world_size == 1 else "gloo"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _label(number: Tensor, rank: Tensor | int) -> Tensor:
    return (number * 7919 + rank) % CLASSES


def _pinned(value: Tensor) -> Tensor:
    return value.cpu().pin_memory() if value.is_cuda else value.clone()
