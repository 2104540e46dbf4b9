"""Runs the cases of a campaign, some at a time, each in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faults.plan import Fault

_PRELOADED = (
    "hydra._internal.config_loader_impl",
    "mlflow",
    "PIL.Image",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "drb.program.config",
    "drb.runs.report.plots",
    "drb.program.build",
    "drb.program.run",
    "drb.tracking.store",
    "drb.train",
)


def import_everything() -> None:
    """Before any process is forked, also what libraries import when they are first used: it takes seconds."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in _PRELOADED:
        importlib.import_module(name)
    from drb.program.config import compose_config

    compose_config(["experiment=digits"])  # makes the schemas of all settings


def run_campaign(
    faults: Sequence[Fault], seed: int, jobs: int, folder: Path, tell: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Each case's outcome as JSON, in the order of the faults; tell gets it as soon as it is known."""
    from faults.case import run_case
    from faults.outcome import Reference, run_reference

    sizes = sorted({fault.world_size for fault in faults})
    names = [f"reference-{size}" for size in sizes]
    calls: list[Callable[[], Any]] = [
        partial(lambda size, name: vars(run_reference(size, folder / name)), size, name)
        for size, name in zip(sizes, names, strict=True)
    ]
    references = dict(zip(sizes, _in_processes(names, calls, jobs, folder), strict=True))
    calls = [
        partial(
            lambda fault: run_case(
                fault, folder / fault.name, Reference(**references[fault.world_size]), seed
            ).to_json(),
            fault,
        )
        for fault in faults
    ]
    return _in_processes([fault.name for fault in faults], calls, jobs, folder, tell)


def _in_processes(
    names: Sequence[str],
    calls: Sequence[Callable[[], Any]],
    at_a_time: int,
    folder: Path,
    tell: Callable[[Any], None] = lambda result: None,
) -> list[Any]:
    """The results, which must be JSON, in the order of the calls."""
    waiting, running, results = list(range(len(calls))), {}, {}
    while waiting or running:
        while waiting and len(running) < at_a_time:
            index = waiting.pop(0)
            running[_fork(calls[index], folder / f"{names[index]}.json")] = index
        pid, _ = os.wait()
        index = running.pop(pid)
        path = folder / f"{names[index]}.json"
        if not path.exists():
            raise RuntimeError(f"{names[index]} ended without a result")
        results[index] = json.loads(path.read_text())
        tell(results[index])
    return [results[index] for index in range(len(calls))]


def _fork(call: Callable[[], Any], path: Path) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            path.write_text(json.dumps(call()))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    return pid
