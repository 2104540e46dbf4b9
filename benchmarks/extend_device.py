"""Claim: none; what a step with rehearsal on a GPU costs the host, in Python and in calls, measured on a CPU.

A stand-in for the GPU runs every operation at once, on the CPU and by the calls of torch that `CudaDevice` makes, and
counts them. Records are small, so what is left is what the host does to queue work: with one rank, `extend` and its
round, minibatches "on the GPU" and on the host (`device=`), the buffer on the host and in "GPU memory". In between, a
small network is trained, as in a run: caches are cold. The same steps without rehearsal take turns, and their CPU time
is taken off. It says nothing of the cost of a launch, which `make gpu-check` measures.

    python benchmarks/extend_device.py [--quick] [--drb FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import record
import torch
from checkout import parse_in_checkout
from extend_cpu import Training
from torch import Tensor

B, R, CAPACITY, SAMPLES = 56, 7, 1000, 8192
STEPS = 100  # of a block
WAYS: dict[str, tuple[bool, dict[str, Any]]] = {  # whether minibatches lie on the device, settings
    "on the gpu, inline": (True, {"asynchronous": False, "storage": "host"}),
    "on the gpu, worker": (True, {"asynchronous": True, "storage": "host"}),
    "device=, inline": (False, {"asynchronous": False, "storage": "host"}),
    "device=, worker": (False, {"asynchronous": True, "storage": "host"}),
    "stored on the gpu, inline": (True, {"asynchronous": False, "storage": "device"}),
    "stored on the gpu, worker": (True, {"asynchronous": True, "storage": "device"}),
}


class Stream:
    def __init__(self, calls: Counter[str]) -> None:
        self._calls = calls

    def wait_event(self, event: Any) -> None:
        self._calls["wait"] += 1


class Event:
    def __init__(self, calls: Counter[str]) -> None:
        self._calls = calls

    def record(self, stream: Any) -> None:
        self._calls["record"] += 1

    def synchronize(self) -> None:
        self._calls["synchronize"] += 1


class InstantGpu:
    """A `Device` on the CPU that does at once what is queued. calls: of each kind, so far."""

    device, identity = torch.device("cpu"), "instant"

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._here: set[int] = set()
        self._kept: list[Tensor] = []
        self._stream = Stream(self.calls)

    def owns(self, value: Tensor) -> bool:
        return value.untyped_storage().data_ptr() in self._here

    def free_bytes(self) -> int:
        return 1 << 40

    def current(self) -> Stream:
        return self._stream

    def side_stream(self) -> Stream:
        return Stream(self.calls)

    def event(self) -> Event:
        return Event(self.calls)

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        yield

    def put(self, value: Tensor) -> Tensor:
        self._kept.append(value)
        self._here.add(value.untyped_storage().data_ptr())
        return value

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, used_on: Sequence[Any] = ()) -> Tensor:
        return self.put(torch.zeros(shape, dtype=dtype))

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def map_host(self, rows: Any) -> Tensor:
        return self.put(torch.from_numpy(rows))

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.calls["copy"] += 1
        target.copy_(source, non_blocking=True)

    def copy_all(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        self.calls["copy all"] += 1
        self.calls["copies of those"] += len(targets)
        torch._foreach_copy_(list(targets), list(sources), non_blocking=True)

    def gather(self, source: Tensor, index: Tensor, out: Tensor) -> None:
        self.calls["gather"] += 1
        torch.index_select(source, 0, index, out=out)

    def scatter(self, target: Tensor, source: Tensor, where: Tensor) -> None:
        self.calls["scatter"] += 1
        target.index_copy_(0, where, source)

    def zero(self, target: Tensor) -> None:
        target.zero_()


class Loop:
    """Extends minibatches in turn. calls: per step."""

    def __init__(self, on_gpu: bool, settings: dict[str, Any]) -> None:
        import drb

        self.gpu = InstantGpu()
        self.rehearsal = drb.Rehearsal(CAPACITY, R, device=self.gpu, verbose=False, **settings)
        images = torch.randint(0, 256, (SAMPLES, 1, 4, 4), dtype=torch.uint8)
        ids = torch.randperm(SAMPLES)
        values = {"image": images[ids], "label": ids % 10, "sample_id": ids}
        if on_gpu:
            values = {name: self.gpu.put(value) for name, value in values.items()}
        self._minibatches = [
            {name: value[first : first + B] for name, value in values.items()} for first in range(0, SAMPLES - B, B)
        ]
        for number in range(2 * len(self._minibatches)):
            self.step(number)

    def step(self, number: int) -> None:
        self.rehearsal.extend(self._minibatches[number % len(self._minibatches)])

    def calls(self, steps: int = 20) -> dict[str, float]:
        self.gpu.calls.clear()
        for number in range(steps):
            self.step(number)
        return {name: count / steps for name, count in sorted(self.gpu.calls.items())}


def cpu_us(step: Callable[[int], None], steps: int) -> float:
    """CPU of this process per step."""
    start = time.process_time()
    for number in range(steps):
        step(number)
    return 1e6 * (time.process_time() - start) / steps


def measure(blocks: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    training, loops = Training(), {name: Loop(*way) for name, way in WAYS.items()}
    taken: dict[str, list[float]] = {f"{setting}, {name}": [] for setting in ("bare", "busy") for name in loops}

    def busy(loop: Loop) -> Callable[[int], None]:
        def step(number: int) -> None:
            loop.step(number)
            training.step()

        return step

    for _ in range(blocks):
        without = cpu_us(lambda number: training.step(), STEPS)
        for name, loop in loops.items():
            taken[f"busy, {name}"].append(cpu_us(busy(loop), STEPS) - without)
            taken[f"bare, {name}"].append(cpu_us(loop.step, STEPS))
    figures: dict[str, Any] = {f"{name}_us": statistics.median(values) for name, values in taken.items()}
    figures |= {f"{name}, least_us": min(values) for name, values in taken.items() if name.startswith("bare")}
    figures["calls"] = {name: loop.calls() for name, loop in loops.items()}
    for loop in loops.values():
        loop.rehearsal.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    record.save("extend_device", measure(10 if parse_in_checkout(parser).quick else 40))


if __name__ == "__main__":
    main()
