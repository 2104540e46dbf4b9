"""Energy: RAPL's counters, which begin anew, those of GPUs, and what is said where they cannot be read."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from drb.distributed.world import World
from drb.program import energy
from drb.program.energy import EnergyMeter
from drb.train import main


def zone(folder: Path, number: str, name: str, microjoules: int) -> Path:
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    for file, content in {"name": name, "max_energy_range_uj": "1000000", "energy_uj": str(microjoules)}.items():
        (path / file).write_text(f"{content}\n")
    return path / "energy_uj"


def test_processors_and_memory_are_added_up_and_counters_begin_anew(tmp_path: Path):
    package, memory = zone(tmp_path, "0", "package-0", 900_000), zone(tmp_path, "0:0", "dram", 100)
    core, all_of_it = zone(tmp_path, "0:1", "core", 0), zone(tmp_path, "1", "psys", 0)
    with EnergyMeter(World(), powercap=tmp_path) as meter:
        for file in (core, all_of_it):
            file.write_text("500000")
        package.write_text("300000")
        meter._read("cpu")  # as the thread does once a minute
        package.write_text("200000")
        memory.write_text("50100")
    assert meter.total(100) == pytest.approx(
        {"joules": 1.35, "joules_per_sample": 0.0135, "gpu_joules": None, "cpu_joules": 1.35}
    )


def test_a_counter_that_cannot_be_read_is_told_once_and_nothing_is_made_up(tmp_path: Path):
    zone(tmp_path, "0", "package-0", 0)
    closed = zone(tmp_path, "1", "package-1", 0)
    closed.unlink()
    closed.mkdir()  # root may read every file, but no folder
    told: list[str] = []
    with EnergyMeter(World(), told.append, tmp_path) as meter:
        pass
    assert meter.total(100) is None
    assert len(told) == 1
    assert told[0].startswith(f"energy: {closed} cannot be read (Is a directory), so that of processors is not")


def test_a_counter_that_is_closed_in_the_meantime_is_told_at_the_end(tmp_path: Path):
    file = zone(tmp_path, "0", "package-0", 0)
    told: list[str] = []
    with EnergyMeter(World(), told.append, tmp_path) as meter:
        file.unlink()
    assert meter.total(100) is None
    assert len(told) == 1
    assert "a counter could not be read any more" in told[0]


def test_a_node_without_counters_has_no_energy(tmp_path: Path):
    with EnergyMeter(World(), pytest.fail, tmp_path / "none") as meter:
        pass
    assert meter.total(100) is None


def test_gpus_are_read_by_nvml_in_millijoules(tmp_path: Path, monkeypatch):
    millijoules = iter([5_000, 5_000, 9_500])
    monkeypatch.setattr(energy, "device_uuid", lambda device: "1234-5678")
    nvml = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: {"GPU-1234-5678": next(millijoules)}[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with EnergyMeter(World(device=torch.device("cuda", 0)), pytest.fail, tmp_path) as meter:
        pass
    monkeypatch.setattr(energy, "sum_over_ranks", lambda tensors, world: tensors)
    assert meter.total(9) == {"joules": 4.5, "joules_per_sample": 0.5, "gpu_joules": 4.5, "cpu_joules": None}


def on_a_rank(rank: int, world_size: int, folder: Path) -> list:
    """Two nodes of two ranks; then one of the nodes has no counters."""
    totals = []
    for is_there in (True, rank < 2):
        world = World(rank, world_size, local_rank=rank % 2, local_world_size=2)
        with EnergyMeter(world, powercap=folder / f"node-{rank // 2}" if is_there else folder / "none") as meter:
            torch.distributed.barrier()
            if rank % 2 == 0:
                (folder / f"node-{rank // 2}/intel-rapl:0/energy_uj").write_text(f"{100_000 * (rank + 1)}")
            torch.distributed.barrier()
        totals.append(meter.total(10))
        (folder / f"node-{rank // 2}/intel-rapl:0/energy_uj").write_text("0")
        torch.distributed.barrier()
    return totals


def test_every_node_is_counted_once_and_a_part_of_them_not_at_all(tmp_path: Path):
    for node in (0, 1):
        zone(tmp_path / f"node-{node}", "0", "package-0", 0)
    for whole, part in run_ranks(on_a_rank, 4, tmp_path):
        assert whole["joules"] == pytest.approx(0.1 + 0.3)
        assert part is None


def test_a_runs_summary_has_its_energy(tmp_path: Path, monkeypatch, capfd):
    zone(tmp_path / "powercap", "0", "package-0", 0)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    readings = iter([2.0, 14.0])
    monkeypatch.setattr(energy.RaplZone, "joules", lambda self: next(readings))
    job = ["experiment=digits", "scenario.num_tasks=2", "training.epochs=1", "tracking=none"]
    assert main([*job, f"hydra.run.dir={tmp_path / 'run'}"]) == 0, capfd.readouterr().err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["energy"]["joules"] == 12.0
    assert summary["energy"]["joules_per_sample"] == 12.0 / summary["samples"]
