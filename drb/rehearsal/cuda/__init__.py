"""Rehearsal on a GPU: minibatches that lie there, exemplars that are wanted there, rows that travel by NCCL.

`device` is all that is asked of CUDA, so that tests put a simulated GPU in its place; `incoming` brings minibatches to
the host and `deferred` decides on them a step later, `ring` takes fetched exemplars to the device ahead of time,
`output` extends minibatches there, `rows` exchanges rows between devices. docs/gpu.md says what was run where.
"""

from drb.rehearsal.cuda.device import CudaDevice, Device, Event, RowBackend, Stream, find_device
from drb.rehearsal.cuda.incoming import Incoming
from drb.rehearsal.cuda.intake import DeferredIntake
from drb.rehearsal.cuda.output import DeviceExtension
from drb.rehearsal.cuda.ring import DeviceRing
from drb.rehearsal.cuda.rows import NcclExchange, RowLauncher

__all__ = [
    "CudaDevice",
    "DeferredIntake",
    "Device",
    "DeviceExtension",
    "DeviceRing",
    "Event",
    "Incoming",
    "NcclExchange",
    "RowBackend",
    "RowLauncher",
    "Stream",
    "find_device",
]
