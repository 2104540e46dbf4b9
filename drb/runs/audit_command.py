"""Say what a run that mixed sources was trained on, and when."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from drb.runs.ledger import Ledger, read_ledger

_EPILOG = """\
The answers follow from a few hundred bytes in the run's directory (mix.json); docs/mix.md says how. Steps that were
trained and lost, because the run was killed and went on from an earlier checkpoint, do not count.
"""


def main(arguments: Sequence[str]) -> int:
    """Run `drb audit`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="drb audit", description=__doc__, epilog=_EPILOG)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the directory of a run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--step", type=int, metavar="N", help="the samples of optimisation step N, which counts from 1")
    what.add_argument(
        "--sample", metavar="SOURCE:POSITION", help="the steps, checkpoints and exports that saw a sample"
    )
    what.add_argument("--mixture", action="store_true", help="what each source got, and what was asked for")
    options = parser.parse_args(arguments)
    try:
        print("\n".join(_answer(read_ledger(options.run_dir), options)))
    except (ValueError, OSError) as error:
        print(f"drb: error: {error}", file=sys.stderr)
        return 1
    return 0


def _answer(ledger: Ledger, options: argparse.Namespace) -> list[str]:
    if options.step is not None:
        return ledger.step(options.step)
    if options.mixture:
        return ledger.mixture()
    steps, seen_by = ledger.sample(options.sample)
    times = f"{len(steps)} of {ledger.steps} steps" if steps else f"none of {ledger.steps} steps"
    return [
        f"{options.sample} was trained in {times}" + (f": {', '.join(map(str, steps))}" if steps else ""),
        f"seen by {', '.join(seen_by) or 'no checkpoint or export that is left'}",
    ]
