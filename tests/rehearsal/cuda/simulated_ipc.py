"""Memory that simulated GPUs of several processes share, by memory files.

A "late" GPU runs its work when its own process waits for it. Where an owner announces rows without such a wait, what
others read is garbage or old.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from drb.rehearsal.cuda.ipc import tensor_at

if TYPE_CHECKING:
    from rehearsal.cuda.simulated import SimulatedGpu

_GARBAGE = 0xA5


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


class SimulatedIpc:
    """opened: addresses that are open now."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self.gpu = gpu
        self.opened: dict[int, np.ndarray] = {}
        self.memory: Memory | None = None

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
