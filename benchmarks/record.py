"""What every benchmark prints and keeps: its command, the machine, versions, and the figures as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def saved(name: str) -> dict[str, Any]:
    """The figures that were saved last under this name."""
    figures: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())["figures"]
    return figures


def save(name: str, figures: dict[str, Any], *, adds: bool = False) -> None:
    """Print the figures and write them to benchmarks/results/NAME.json; of a quick run, to results/quick/.

    adds: some of the figures are those of the file as it was, so that its commands are kept, too.
    """
    folder = RESULTS / "quick" if "--quick" in sys.argv else RESULTS
    file = folder / f"{name}.json"
    earlier = json.loads(file.read_text())["command"].split("; ") if adds and file.exists() else []
    result = {
        "command": "; ".join(dict.fromkeys([*earlier, _command()])),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.release()}"},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "figures": figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _command() -> str:
    """The command line of this process, as somebody would give it in a checkout."""
    started_as = sys.modules["__main__"].__spec__  # of python -m
    program = (
        [os.path.relpath(sys.argv[0])] if started_as is None else ["-m", started_as.name.removesuffix(".__main__")]
    )
    arguments = [os.path.relpath(each) if Path(each).is_file() else each for each in sys.argv[1:]]
    return " ".join(["python", *program, *arguments])


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
