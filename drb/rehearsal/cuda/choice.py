"""Which device a rehearsal works for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from drb.rehearsal.cuda.device import CudaDevice, Device


def find_device(wanted: str | int | torch.device | Device | None, values: Mapping[str, Tensor]) -> Device | None:
    """The device that is wanted or, if None is, the one where some of the values lie; None: the host.

    Raises:
        ValueError: a device that is not there, or is neither CUDA nor the CPU.
    """
    if wanted is None:
        wanted = next((value.device for value in values.values() if value.is_cuda), torch.device("cpu"))
    elif not isinstance(wanted, str | int | torch.device):
        return wanted
    try:
        device = torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)
    except RuntimeError:
        raise ValueError(f'device must be None, "cpu", "cuda" or "cuda:N", got {wanted!r}') from None
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        raise ValueError(f"device must be a CUDA device or the CPU, got {device}")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= available:
        raise ValueError(f"device={device} is not there: {available} CUDA devices are visible; leave device= out")
    return CudaDevice(device)
