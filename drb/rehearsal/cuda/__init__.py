"""Rehearsal on a GPU: minibatches that lie there, exemplars that are wanted there, rows that travel by NCCL.

`device` is all that is asked of CUDA, so that tests put a simulated GPU in its place. `side` holds what a rehearsal has
on one device. `intake` takes minibatches there and decides on them a step later; `landing` writes what was admitted
into the buffer's rows; `ring` brings fetched exemplars to the device ahead of time; `output` extends minibatches there;
`rows` exchanges rows between devices. docs/gpu.md says what was run where.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from drb.rehearsal.cuda.device import CudaDevice, Device
from drb.rehearsal.cuda.incoming import DeferredLate, Incoming
from drb.rehearsal.cuda.intake import DeviceIntake
from drb.rehearsal.cuda.landing import Landing
from drb.rehearsal.cuda.output import DeviceExtension
from drb.rehearsal.cuda.ring import DeviceRing
from drb.rehearsal.cuda.rows import NcclExchange, RowLauncher
from drb.rehearsal.cuda.side import DeviceSide

__all__ = [
    "CudaDevice",
    "DeferredLate",
    "Device",
    "DeviceExtension",
    "DeviceIntake",
    "DeviceRing",
    "DeviceSide",
    "Incoming",
    "Landing",
    "NcclExchange",
    "RowLauncher",
    "find_device",
]


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
