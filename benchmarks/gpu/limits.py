"""What copies, gathers and launches cost on this machine: the floor under every figure of the check."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from drb.rehearsal.cuda import CudaDevice

_ROW = 150_528  # bytes of an image of 224x224x3
_WORDS = _ROW // 8


def measure(device: torch.device) -> dict[str, Any]:
    """Microseconds of host time and of device time by operation, and bandwidths in GB/s."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    stored = torch.randint(0, 1 << 60, (2048, _WORDS), device=device)
    for rows in (7, 56, 256):
        pinned = torch.zeros((rows, _WORDS), dtype=torch.int64, pin_memory=True)
        pageable, there = torch.zeros((rows, _WORDS), dtype=torch.int64), torch.zeros_like(pinned, device=device)
        where = torch.randperm(len(stored), device=device)[:rows]
        actions: dict[str, Callable[[], Any]] = {
            "pinned to device": lambda there=there, pinned=pinned: there.copy_(pinned, non_blocking=True),
            "device to pinned": lambda there=there, pinned=pinned: pinned.copy_(there, non_blocking=True),
            "pageable to device": lambda there=there, pageable=pageable: there.copy_(pageable, non_blocking=True),
            "host to host": lambda pinned=pinned, pageable=pageable: pinned.copy_(pageable),
            "gather": lambda there=there, where=where: torch.index_select(stored, 0, where, out=there),
            "scatter": lambda there=there, where=where: stored.index_copy_(0, where, there),
        }
        for name, action in actions.items():
            found[f"{name}, {rows} images"] = timed(action, device)
    found |= from_mapped_memory(device)
    tiny = torch.zeros(1, device=device)
    event, side = torch.cuda.Event(blocking=True), torch.cuda.Stream()
    found["tiny kernel"] = timed(lambda: tiny.add_(1), device)
    found["event record"] = timed(event.record, device)
    found["stream wait"] = timed(lambda: side.wait_event(event), device)
    found["GB/s"] = bandwidths(device)
    for name, value in found.items():
        print(f"   {name}: {value}", flush=True)
    return found


def from_mapped_memory(device: torch.device) -> dict[str, dict[str, float]]:
    """What it takes the device to gather rows from host memory that it reads itself; nothing where it cannot."""
    rows = np.zeros((256, _WORDS), np.int64)
    mapped = CudaDevice(device).map_host(rows)
    if mapped is None:
        return {}
    found = {}
    for count in (7, 32):
        there = torch.zeros((count, _WORDS), dtype=torch.int64, device=device)
        where = torch.randperm(len(rows), device=device)[:count]
        action = functools.partial(torch.index_select, mapped, 0, where, out=there)
        found[f"gather from the host, {count} images"] = timed(action, device)
    return found


def timed(action: Callable[[], Any], device: torch.device, repeats: int = 40) -> dict[str, float]:
    """Medians in microseconds: host: until the call returns, on an idle device; device: between two events."""
    host, on_device = [], []
    for _ in range(repeats + 5):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        action()
        host.append(1e6 * (time.perf_counter() - start))
        torch.cuda.synchronize(device)
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(60_000)  # so that the device does not wait for the host
        first.record()
        action()
        last.record()
        torch.cuda.synchronize(device)
        on_device.append(1e3 * first.elapsed_time(last))
    return {"host": round(statistics.median(host[5:]), 1), "device": round(statistics.median(on_device[5:]), 1)}


def bandwidths(device: torch.device, size: int = 1 << 28) -> dict[str, float]:
    here = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
    there, other = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    copies = {
        "host to device": (there, here, 1),
        "device to host": (here, there, 1),
        "on the device": (other, there, 2),
    }
    return {
        name: round(factor * size / 1e3 / timed(lambda t=t, s=s: t.copy_(s, non_blocking=True), device, 5)["device"], 1)
        for name, (t, s, factor) in copies.items()
    }
