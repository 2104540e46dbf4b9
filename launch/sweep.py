"""Runs every combination of settings on this machine, one after the other.

    python -m launch.sweep seed=0,1,2 strategy=er,finetune experiment=digits             6 runs, by torchrun
    python -m launch.sweep ranks=1,2,4 seed=0,1 experiment=digits                        several world sizes

A comma outside brackets separates values: model.hidden=[100,100] is one. `ranks` is the number of ranks; all else goes
to drb train. --dry-run prints the commands. The first run that fails ends the sweep, unless --keep-going. A run is
named by the settings that vary. The runs are in runs/sweep-TIME/, which DRB_RUNS changes; compare them with
`drb report`. Under Slurm, `drb study --slurm` submits combinations of settings.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

_OWN = {"--dry-run", "--keep-going"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if all runs did well."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    name = f"sweep-{datetime.now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
    folder = Path(os.environ.get("DRB_RUNS", "runs")) / name
    try:
        commands = commands_of(arguments, folder)
    except ValueError as error:
        print(f"launch.sweep: error: {error}", file=sys.stderr)
        return 1
    failed = []
    for number, command in enumerate(commands, 1):
        print(f"[{number}/{len(commands)}] {shlex.join(command)}", flush=True)
        if "--dry-run" in arguments:
            continue
        if subprocess.run(command).returncode != 0:
            failed.append(number)
            if "--keep-going" not in arguments:
                break
    if failed:
        print(f"launch.sweep: error: failed: {', '.join(map(str, failed))} of {len(commands)}", file=sys.stderr)
        return 1
    print(f"compare: drb report {folder}/*")
    return 0


def points(settings: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """The keys with several values, and every combination of all keys' values.

    Raises:
        ValueError: a setting that is not key=value.
    """
    values: dict[str, list[str]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is not key=value or key=a,b,c")
        values[key] = _split(text)
    combinations = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    return [key for key, several in values.items() if len(several) > 1], combinations


def commands_of(arguments: Sequence[str], folder: Path) -> list[list[str]]:
    """One torchrun for each combination.

    Raises:
        ValueError: an argument that is neither an option of this program nor key=value.
    """
    if odd := [argument for argument in arguments if argument.startswith("--") and argument not in _OWN]:
        raise ValueError(f"there is no option {odd[0]}; to submit combinations to Slurm, use drb study --slurm")
    swept, combinations = points([a for a in arguments if not a.startswith("--")])
    commands = []
    for point in combinations:
        run_dir = folder / _name(point, swept)
        ranks = point.pop("ranks", "2")
        launcher = [sys.executable, "-m", "drb.distributed.torchrun", "--standalone", f"--nproc-per-node={ranks}"]
        settings = [*_settings(point), *_run_name(point, swept)]
        commands.append([*launcher, "-m", "drb.train", *settings, f"hydra.run.dir={run_dir}"])
    return commands


def _settings(point: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in point.items()]


def _run_name(point: Mapping[str, str], swept: Sequence[str]) -> list[str]:
    """A setting that names the run in tables by what varies; seeds and numbers of ranks have columns of their own."""
    keys = [key for key in swept if key not in ("seed", "ranks")]
    if not keys or "name" in point:
        return []
    values = [point[key] if key == "strategy" else f"{key.rpartition('.')[2]}={point[key]}" for key in keys]
    text = " ".join(values).replace("'", "").replace("\\", "")
    return [f"name='{text}'"]


def _name(point: Mapping[str, str], swept: Sequence[str]) -> str:
    """A folder's name that tells the point: the swept keys' last parts and values."""
    parts = [f"{key.rpartition('.')[2]}={point[key]}" for key in swept] or ["run"]
    return re.sub(r"[^\w=.,+-]", "_", ",".join(parts)).replace(",", "-").replace("=", "_")


def _split(text: str) -> list[str]:
    """At commas outside brackets, braces, parentheses and quotes."""
    pieces = re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|\([^)]*\)|'[^']*'|\"[^\"]*\"|[^,])+", text)
    return pieces or [text]


if __name__ == "__main__":
    sys.exit(main())
