"""The command `drb demo` (`make demo`): compares three ways to train on two ranks, on real images, in about a minute.

The runs are incremental (plain training, the lower bound), rehearsal, and from scratch (retraining on everything, the
upper bound), on five tasks of two digits each. Each run is one `torchrun`. The demo ends with a table, why rehearsal
took as long as it did, plots, and how to browse the runs in MLflow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drb.program.config import check_config, compose_config
from drb.runs.report.plots import save_plots
from drb.runs.report.table import print_table

_RUNS = {"incremental": "finetune", "rehearsal": "er", "from scratch": "from_scratch"}
_MLFLOW_EXPERIMENT = "drb-demo"
_RANKS = 2
_HELP = """\
usage: drb demo [key=value ...]

Trains on scikit-learn's handwritten digits in five tasks of two classes, on two ranks, in three ways:

    incremental   on each task in turn: forgets the earlier ones
    rehearsal     the same with a rehearsal buffer
    from scratch  on all data so far after each task

It takes about a minute, and ends with a table and plots in runs/demo-TIME/. key=value changes a setting of all three
runs, for example training.epochs=4 or tracking=none; drb train --help says more about settings.
"""


def main(arguments: Sequence[str] = ()) -> int:
    """Run the demo and return the exit code. Arguments (key=value) are passed to all three runs."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(_HELP)
        return 0
    try:
        _check(arguments)
    except ValueError as error:  # said once, and before anything is started
        print(f"drb: error: {error}", file=sys.stderr)
        return 1
    started = time.monotonic()
    folder = Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    summaries = []
    for number, (name, strategy) in enumerate(_RUNS.items(), 1):
        print(f"\n[{number}/{len(_RUNS)}] {name}", flush=True)
        run_dir = folder / name.replace(" ", "-")
        code = subprocess.run(_command(name, strategy, run_dir, arguments), env=_environment()).returncode
        if code != 0:
            print(f"drb: error: the run {name!r} failed with exit code {code}, see above", file=sys.stderr)
            return code
        summaries.append(_read(run_dir / "summary.json"))
    print()
    print_table(summaries)
    print(f"\n{why_it_takes_longer(*summaries[:2])}")
    print("\nplots:")
    for plot in save_plots(summaries, folder):
        print(f"  {plot}")
    print(f"\nbrowse the runs (experiment {_MLFLOW_EXPERIMENT}):\n  {_mlflow_command()}")
    print(f"\ndone in {time.monotonic() - started:.0f} s")
    return 0


def why_it_takes_longer(incremental: Mapping[str, Any], rehearsal: Mapping[str, Any]) -> str:
    """One sentence: what a step with rehearsal takes, and which part of it is drb's own.

    Args:
        incremental: the summary of the run without rehearsal.
        rehearsal: that of the run with it.
    """
    plain, whole = (1e3 * run["train_seconds"] / run["steps"] for run in (incremental, rehearsal))
    rows_before, rows = (run["cost"]["rows_trained"] / run["steps"] for run in (incremental, rehearsal))
    parts = rehearsal["breakdown"]["training"]
    own = 1e3 * sum(parts[name] for name in ("wait", "round", "admission", "copy")) / rehearsal["steps"]
    return (
        f"Why rehearsal takes {whole / plain:.2f} x as long as incremental here: a step trains on {rows:.0f} rows, not "
        f"{rows_before:.0f}, and {own:.2f} ms of its {whole:.2f} ms are drb's own;\nthat is a fixed cost per step, and "
        "vanishes in large ones: see 'Whole training steps' in docs/performance.md."
    )


def _check(arguments: Sequence[str]) -> None:
    """Raise ValueError if the settings cannot be meant."""
    for name, strategy in _RUNS.items():
        config, _ = compose_config(_settings(name, strategy, Path(), arguments), "demo")
        check_config(config, _RANKS)


def _command(name: str, strategy: str, run_dir: Path, arguments: Sequence[str]) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={_RANKS}"]
    return [*launcher, "-m", "drb.train", *_settings(name, strategy, run_dir, arguments)]


def _settings(name: str, strategy: str, run_dir: Path, arguments: Sequence[str]) -> list[str]:
    return [
        "experiment=digits",
        f"strategy={strategy}",
        f"name={name}",
        f"hydra.run.dir={run_dir}",
        f"tracking.experiment={_MLFLOW_EXPERIMENT}",
        "tracking.plots=false",  # one set for all three runs follows
        *arguments,
    ]


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
