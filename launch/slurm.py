"""Fills slurm/train.sbatch from the command line, and prints the command that submits it, or submits.

    python -m launch.slurm --nodes=4 --partition=gpu --time=12:00:00 experiment=paper_imagenet_resnet50 seed=1
    python -m launch.slurm --submit --array=0-4 ...          five seeds
    python -m launch.slurm --test ...                        ask Slurm when it would start, and submit nothing

Options that begin with `--` are sbatch's; `--srun` takes the file without torchrun, `--gpus-per-node=N` also sets its
tasks. `DRB_X=value` sets a variable of the batch file (DRB_PYTHON, DRB_RUNS, DRB_MAX_RESTARTS ...). All else goes to
drb train.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent.parent / "slurm"
_OWN = {"--submit", "--test", "--srun"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: sbatch's, if it is called."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        command = build_command(arguments)
    except ValueError as error:
        print(f"launch.slurm: error: {error}", file=sys.stderr)
        return 1
    if {"--submit", "--test"} & set(arguments):
        return run_sbatch(command)
    print(shlex.join(command))
    return 0


def build_command(arguments: Sequence[str]) -> list[str]:
    """The sbatch command for a command line of this program.

    Raises:
        ValueError: an option without its value, or arguments that sbatch cannot be given.
    """
    options = [argument for argument in arguments if argument.startswith("--") and argument not in _OWN]
    variables = [argument for argument in arguments if re.match(r"DRB_[A-Z_]+=", argument)]
    settings = [a for a in arguments if a not in {*options, *variables, *_OWN}]
    for option in options:
        if "=" not in option:
            raise ValueError(f"{option} needs its value behind an equals sign, as in {option}=...")
    for argument in [*variables, *settings]:
        if "=" not in argument:
            raise ValueError(f"{argument!r} is neither --option=value for sbatch nor key=value for drb train")
    if any("," in variable for variable in variables):
        raise ValueError("a DRB_ variable with a comma cannot be given to sbatch: export it and submit without it")
    srun = "--srun" in arguments
    if srun:
        per_node = [o.rpartition("=")[2].rpartition(":")[2] for o in options if o.startswith("--gpus-per-node=")]
        options = [*options, *(f"--ntasks-per-node={gpus}" for gpus in per_node)]  # also of --gpus-per-node=a100:4
    export = [f"--export=ALL,{','.join(variables)}"] if variables else []
    test = ["--test-only"] if "--test" in arguments else []
    return [
        "sbatch",
        *test,
        *options,
        *export,
        str(_FOLDER / ("train_srun.sbatch" if srun else "train.sbatch")),
        *settings,
    ]


def run_sbatch(command: Sequence[str]) -> int:
    """Call sbatch; its exit code, or 1 with a line that says that there is none."""
    try:
        return subprocess.run(command).returncode
    except FileNotFoundError:
        print("launch.slurm: error: there is no sbatch here; run this on a login node of the cluster", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
