"""Rehearsal on a GPU: minibatches that lie there, exemplars that are wanted there, rows that travel by NCCL.

`device` is all that is asked of CUDA, so that tests put a simulated GPU in its place. `side` holds what a rehearsal has
on one device. `intake` takes minibatches there and decides on them a step later; `landing` writes what was admitted
into the buffer's rows; `ring` brings fetched exemplars to the device ahead of time; `output` extends minibatches there;
`rows` exchanges rows between devices. docs/gpu.md says what was run where.
"""

from drb.rehearsal.cuda.choice import find_device
from drb.rehearsal.cuda.device import CudaDevice, Device
from drb.rehearsal.cuda.incoming import Incoming
from drb.rehearsal.cuda.intake import DeviceIntake
from drb.rehearsal.cuda.landing import Landing
from drb.rehearsal.cuda.late import DeferredLate
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
