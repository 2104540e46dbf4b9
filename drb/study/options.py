"""The options of `drb study`."""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path

from drb.program.config.studies import question_of, study_files
from drb.study.launch import LAUNCHERS

_BATCH_FILE = Path("slurm/train.sbatch")
_EPILOG = """\
key=value changes a setting of all runs, for example dataset=cifar10. A study that was stopped goes on with the same
command: what is done is not done again, and what failed is tried again.
"""


def numbers(option: str, text: str | None, *, least: int) -> list[int] | None:
    """Numbers from `least` on with commas between them; None if none are given.

    Raises:
        ValueError: the text is something else.
    """
    if text is None:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", text) or any(int(part) < least for part in text.split(",")):
        between = f"whole numbers from {least} on with commas between"
        raise ValueError(f"{option} must be {between}, as in {least},{least + 1}, got {text!r}")
    return [int(part) for part in text.split(",")]


def parser_of_study() -> argparse.ArgumentParser:
    """The parser, whose help lists the studies that drb brings along."""
    known = {name: question_of(path) for name, path in study_files().items()}
    width = max(map(len, known)) + 2
    lines = [
        textwrap.fill(f"{name:{width}}{question}", 100, initial_indent="  ", subsequent_indent=" " * (width + 2))
        for name, question in known.items()
    ]
    epilog = "studies:\n" + "\n".join(lines) + "\n\n" + _EPILOG
    parser = argparse.ArgumentParser(
        prog="drb study",
        usage="drb study NAME [options] [key=value ...]",
        description="Train at several points and over several seeds, and compare them on one page.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a study below, or a YAML file of your own")
    parser.add_argument("--seeds", metavar="0,1,2", help="other seeds than the study's")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where its files go (default runs/study-NAME)")
    parser.add_argument("--ranks", metavar="1,2,4", help="other numbers of ranks than the study's")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="torchrun", help="what starts the ranks of a run")
    parser.add_argument("--page", action="store_true", help="make the page of what is done, and start nothing")
    parser.add_argument("--within", type=float, metavar="X", help="name the smallest capacity so near to the largest")
    parser.add_argument("--dry-run", action="store_true", help="print the command of each run, and start nothing")
    slurm = parser.add_argument_group("under Slurm")
    slurm.add_argument("--slurm", action="store_true", help="submit the runs as arrays of jobs, and a job for the page")
    slurm.add_argument("--batch-file", type=Path, default=_BATCH_FILE, metavar="FILE", help="that starts a run")
    slurm.add_argument("--sbatch", default="", metavar="OPTIONS", help="options of sbatch, in quotes, for all jobs")
    slurm.add_argument("--ranks-per-node", type=int, metavar="N", help="at most (default: the file's GPUs per node)")
    slurm.add_argument("--at-once", type=int, metavar="N", help="at most so many runs at a time")
    return parser
