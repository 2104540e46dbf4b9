"""Copies of a run's tensors, made while training waits, and written while it goes on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class StateMemory:
    """Host memory for a state's tensors that is used again for the next state; page-locked for those on a GPU."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Contiguous copies by name; they stay as they are until the next call."""
        copies: dict[str, Tensor] = {}
        devices: set[torch.device] = set()
        for name, tensor in tensors.items():
            home = self._copies.get(name)
            if home is None or home.shape != tensor.shape or home.dtype != tensor.dtype:
                home = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            home.copy_(tensor, non_blocking=tensor.is_cuda)
            copies[name] = home
            if tensor.is_cuda:
                devices.add(tensor.device)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        self._copies = copies
        return copies

    def clear(self) -> None:
        """Zero the memory and give it back: it may hold samples that must be forgotten."""
        for copy in self._copies.values():
            copy.zero_()
        self._copies = {}
