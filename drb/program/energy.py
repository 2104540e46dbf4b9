"""The energy that a run takes, where the node offers counters of it: GPUs by NVML, processors and memory by RAPL.

Every rank reads the counter of its own GPU, and one rank of each node those of the node's processors. A thread reads
them once a minute, because RAPL's counters are only large enough for some twenty minutes; training does nothing for it.
RAPL counts the whole node, so other jobs that share it are counted, too.

NVML needs the package nvidia-ml-py (`drb-train[energy]`) and a GPU since Volta. RAPL is `/sys/class/powercap`, which
Linux lets root alone read unless the site has decided otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from drb.distributed.reduction import sum_over_ranks
from drb.distributed.world import World, device_uuid

POWERCAP = Path("/sys/class/powercap")
_EVERY_S = 60.0


class Counter(Protocol):
    """Joules since some moment."""

    def joules(self) -> float:
        """Raises OSError if it cannot be read."""


class RaplZone:
    """The counter of a processor or of its memory, which begins anew when it has reached its range."""

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last, self._turns = int(self._file.read_text()), 0

    def joules(self) -> float:
        now = int(self._file.read_text())
        self._turns += now < self._last
        self._last = now
        return (now + self._turns * self._range) / 1e6


class NvmlGpu:
    """The counter of a GPU."""

    def __init__(self, device: torch.device) -> None:
        import pynvml

        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(_full_uuid(device))
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    def joules(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from error


def _full_uuid(device: torch.device) -> str:
    """The UUID as NVML writes it; torch leaves the first letters out."""
    uuid = device_uuid(device)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


class EnergyMeter:
    """Measures inside its `with` block.

    say: told once, on rank 0, if there are counters that cannot be read.
    """

    def __init__(self, world: World, say: Callable[[str], None] | None = None, powercap: Path | None = None) -> None:
        self._world = world
        self._say = say or (lambda line: None)
        self._counters: dict[str, list[Counter]] = {"gpu": self._gpu(), "cpu": self._cpus(powercap or POWERCAP)}
        self._spent = {"gpu": 0.0, "cpu": 0.0}
        self._failure = ""  # of a counter that could be read before
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, name="drb-energy", daemon=True)

    def __enter__(self) -> EnergyMeter:
        self._begin = {kind: self._read(kind) for kind in self._counters}
        if any(self._counters.values()):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._spent = {kind: self._read(kind) - self._begin[kind] for kind in self._counters}
        if self._failure:
            self._say(f"energy: a counter could not be read any more: {self._failure}")

    def total(self, samples: int) -> dict[str, Any] | None:
        """All ranks' energy; None unless every GPU of the run was measured, or every node's processors. Collective.

        Args:
            samples: of the stream, on all ranks, that were trained on in the meantime.
        Returns:
            joules, joules_per_sample, and what of it GPUs (`gpu_joules`) and processors with their memory
            (`cpu_joules`) took; None where not all of them were measured.
        """
        world, kinds = self._world, ("gpu", "cpu")
        own = [(self._spent[kind], float(bool(self._counters[kind]))) for kind in kinds]
        sums = sum_over_ranks([torch.tensor(own, dtype=torch.float64)], world)[0].tolist()
        wanted = (world.world_size, world.world_size // world.local_world_size)
        found = {
            f"{kind}_joules": joules if measured == count else None
            for kind, (joules, measured), count in zip(kinds, sums, wanted, strict=True)
        }
        known = [joules for joules in found.values() if joules is not None]
        if not known:
            return None
        joules = sum(known)
        return {"joules": joules, "joules_per_sample": joules / samples if samples else None, **found}

    def _gpu(self) -> list[Counter]:
        if self._world.device.type != "cuda":
            return []
        try:
            gpu = NvmlGpu(self._world.device)
            gpu.joules()
        except ImportError:  # it is optional
            return []
        except OSError as error:
            self._say(f"energy: this GPU's cannot be read: {error}")
            return []
        return [gpu]

    def _cpus(self, powercap: Path) -> list[Counter]:
        """Those of all processors and their memory, or none: a part of them would be misleading."""
        if (self._world.local_rank or 0) != 0:
            return []
        try:
            return [RaplZone(zone) for zone in sorted(powercap.glob("intel-rapl:*")) if _is_counted(zone)]
        except OSError as error:
            self._say(
                f"energy: {error.filename or powercap} cannot be read ({error.strerror or error}), so that of "
                "processors is not measured; ask the site, or let an administrator make energy_uj readable"
            )
            return []

    def _read(self, kind: str) -> float:
        try:
            return sum(counter.joules() for counter in self._counters[kind])
        except OSError as error:
            self._failure, self._counters[kind] = str(error), []
            return 0.0

    def _keep_reading(self) -> None:
        while not self._stop.wait(_EVERY_S):
            for kind in self._counters:
                self._read(kind)


def _is_counted(zone: Path) -> bool:
    """Whether a zone is a processor or its memory. Cores are parts of processors, and `psys` contains all of them."""
    name = (zone / "name").read_text().strip()
    return name.startswith("package") or name == "dram"
