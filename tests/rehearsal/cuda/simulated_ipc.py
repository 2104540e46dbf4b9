"""Memory and events that simulated GPUs of several processes share, by memory files.

A stream that waits for another process's event makes that process run its stream up to there, and no further: the work
of a "late" GPU runs as late as the others' waits allow. Where a wait is missing, what is read is garbage or old.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from drb.rehearsal.cuda.ipc import tensor_at

if TYPE_CHECKING:
    from rehearsal.cuda.simulated import SimulatedGpu

_GARBAGE = 0xA5
_RECORDED, _DEMANDED, _DONE = range(3)
_WAIT_S = 20.0


def _map(path: str, num_bytes: int) -> np.ndarray:
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), num_bytes), np.int64)


def _create(num_bytes: int) -> str:
    """Memory without a name, which goes with the processes that have it, however they end; where others find it."""
    fd = os.memfd_create("drb-simulated")
    os.ftruncate(fd, num_bytes)
    return f"/proc/{os.getpid()}/fd/{fd}"


def _remove(path: str) -> None:
    os.close(int(path.rpartition("/")[2]))


class Memory:
    """freed: whether no reader has it open any more."""

    def __init__(self, gpu: SimulatedGpu, num_rows: int, words: int) -> None:
        self.handle = _create(num_rows * words * 8)
        flat = _map(self.handle, num_rows * words * 8)
        flat.view(np.uint8).fill(_GARBAGE)
        self.rows = gpu.adopt(torch.from_numpy(flat.reshape(num_rows, words)))
        self.address = self.rows.data_ptr()
        self.freed = False

    def readers_closed(self) -> None:
        self.freed = True
        _remove(self.handle)


class OwnEvent:
    """Recorded by this process. words: how often it was recorded, is wanted by a reader, and has been reached."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self.gpu, self.handle = gpu, _create(24)
        self.words = _map(self.handle, 24)
        self.stream: Any = None
        self.positions: list[int] = [0]

    def record(self, stream: Any) -> None:
        with self.gpu.lock:
            number = len(self.positions)
            stream.queue(lambda: self._reach(number))
            self.stream = stream
            self.positions.append(len(stream.work))
            self.words[_RECORDED] = number

    def synchronize(self) -> None:
        self.stream.run_to(self.positions[-1])

    def serve(self) -> None:
        """Run the stream as far as another process waits for it."""
        wanted = int(self.words[_DEMANDED])
        if wanted > self.words[_DONE]:
            self.stream.run_to(self.positions[wanted])

    def _reach(self, number: int) -> None:
        self.words[_DONE] = number


class TheirEvent:
    """Another process's."""

    def __init__(self, gpu: SimulatedGpu, handle: str) -> None:
        self.gpu, self.words = gpu, _map(handle, 24)

    def wait_on(self, waiting: Any) -> None:
        number = int(self.words[_RECORDED])  # as it was recorded last
        waiting.queue(lambda: self._wait(number))

    def _wait(self, number: int) -> None:
        end = time.monotonic() + _WAIT_S
        self.words[_DEMANDED] = max(number, self.words[_DEMANDED])
        with self.gpu.lock:
            while self.words[_DONE] < number:
                assert time.monotonic() < end, "another process's event did not come"
                self.gpu.changed.wait(0.0005)


class SimulatedIpc:
    """opened: addresses that are open now."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self.gpu = gpu
        self.opened: dict[int, np.ndarray] = {}
        self.memory: Memory | None = None
        self._events: list[OwnEvent] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def allocate(self, num_rows: int, words: int) -> Memory:
        self.memory = Memory(self.gpu, num_rows, words)
        return self.memory

    def open(self, handle: str) -> int:
        memory = _map(handle, os.stat(handle).st_size)
        address = self.gpu.adopt(torch.from_numpy(memory)).data_ptr()
        self.opened[address] = memory
        return address

    def close(self, address: int) -> None:
        del self.opened[address]

    def tensor(self, address: int, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
        return self.gpu.adopt(tensor_at(address, shape, strides, torch.device("cpu")))

    def event(self) -> tuple[OwnEvent, str]:
        self._events.append(OwnEvent(self.gpu))
        return self._events[-1], self._events[-1].handle

    def open_event(self, handle: str) -> TheirEvent:
        return TheirEvent(self.gpu, handle)

    def is_done_within(self, event: Any, seconds: float) -> bool:
        event.synchronize()
        return True

    def _serve(self) -> None:
        while self.memory is None or not self.memory.freed:
            for event in self._events:
                event.serve()
            time.sleep(0.0005)
