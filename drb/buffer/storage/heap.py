"""Rows in this process's own memory."""

from __future__ import annotations

import numpy as np
import torch

from drb.machine import available_memory_bytes, require_memory
from drb.types import ROW_ALIGNMENT_BYTES, Int64Array


class HeapStorage:
    """rows: int64 [num_rows, words], aligned, allocated once and freed with this object.

    pin: page-locked, so that copies to a GPU are asynchronous. Only for small memory: torch rounds it up to a power of
    two (pytorch#150517), and rows of a buffer are gathered before anything is copied.
    """

    def __init__(self, num_rows: int, words: int, *, pin: bool = False) -> None:
        require_memory(num_rows * words * 8, available_memory_bytes(), "memory")
        if pin:
            self.rows: Int64Array = torch.zeros((num_rows, words), dtype=torch.int64, pin_memory=True).numpy()
        else:
            size = num_rows * words
            memory = np.zeros(size + ROW_ALIGNMENT_BYTES // 8, np.int64)  # padding too is saved: never old memory
            start = -memory.ctypes.data % ROW_ALIGNMENT_BYTES // 8
            self.rows = memory[start : start + size].reshape(num_rows, words)
