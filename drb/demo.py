"""The command behind `make demo`: compares three ways to train on two ranks, on real images, in under two minutes.

The runs are incremental (plain training, the lower bound), rehearsal, and from scratch (retraining on everything, the
upper bound), on five tasks of two digits each. Each run is one `torchrun`. The demo ends with a table, plots, and how
to browse the runs in MLflow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drb.runs.report.plots import save_plots
from drb.runs.report.table import print_table

_RUNS = {"incremental": "finetune", "rehearsal": "er", "from scratch": "from_scratch"}
_MLFLOW_EXPERIMENT = "drb-demo"


def main(arguments: Sequence[str] = ()) -> int:
    """Run the demo and return the exit code. Arguments (key=value) are passed to all three runs."""
    started = time.monotonic()
    folder = Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    summaries = []
    for number, (name, strategy) in enumerate(_RUNS.items(), 1):
        print(f"\n[{number}/{len(_RUNS)}] {name}", flush=True)
        run_dir = folder / strategy
        code = subprocess.run(_command(name, strategy, run_dir, arguments), env=_environment()).returncode
        if code != 0:
            print(f"drb: error: the run {name!r} failed with exit code {code}, see above", file=sys.stderr)
            return code
        summaries.append(_read(run_dir / "summary.json"))
    print()
    print_table(summaries)
    print("\nplots:")
    for plot in save_plots(summaries, folder):
        print(f"  {plot}")
    print(f"\nbrowse the runs (experiment {_MLFLOW_EXPERIMENT}):\n  {_mlflow_command()}")
    print(f"\ndone in {time.monotonic() - started:.0f} s")
    return 0


def _command(name: str, strategy: str, run_dir: Path, arguments: Sequence[str]) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = [
        "experiment=digits",
        f"strategy={strategy}",
        f"name={name}",
        f"hydra.run.dir={run_dir}",
        f"tracking.experiment={_MLFLOW_EXPERIMENT}",
        "tracking.plots=false",  # one set for all three runs follows
    ]
    return [*launcher, "-m", "drb.train", *settings, *arguments]


def _environment() -> dict[str, str]:
    # torchrun prints a notice where this is unset
    return {"OMP_NUM_THREADS": "1", **os.environ}


def _mlflow_command() -> str:
    """The command that browses the runs. It needs no store if the environment names one, which MLflow uses anyway."""
    program = Path(sys.executable).parent / "mlflow"
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    command = f"{program} ui"
    return command if os.environ.get("MLFLOW_TRACKING_URI") else f"{command} --backend-store-uri sqlite:///mlflow.db"


def _read(path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
