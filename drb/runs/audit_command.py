"""Say what a run was trained on, and when: new samples, and exemplars from the buffers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from drb.registry import UnnamedVariantError
from drb.runs.ledger import Ledger, read_ledger
from drb.runs.lineage.record import LINEAGE_FILE, Lineage, read_lineage
from drb.runs.lineage.seen import versions_that_saw
from drb.runs.rehearsed import RehearsalLedger, is_sample_id
from drb.sampling.proportions import PROPORTIONS

_EPILOG = """\
The answers follow from a few hundred bytes in the directory of a run that mixes sources (mix.json; docs/mix.md), or
from a log of what the buffers of a run that rehearses held (ledger/; docs/audit.md). Steps that were trained and lost,
because the run was killed and went on from an earlier checkpoint, do not count.
"""


def main(arguments: Sequence[str]) -> int:
    """Run `drb audit`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="drb audit", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN_DIR", help="the directory of a run, or for --sample of a lineage"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--step", type=int, metavar="N", help="the samples of optimisation step N, which counts from 1")
    what.add_argument(
        "--sample", metavar="ID", help="the steps, checkpoints and exports that saw a sample (SOURCE:POSITION of a mix)"
    )
    what.add_argument("--mixture", action="store_true", help="what each source got, and what was asked for")
    parser.add_argument(
        "--proportions",
        metavar="PACKAGE.MODULE.CLASS",
        help="the proportions of the run, if they are a class of your own (rehearsal.proportions)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.proportions is not None:
            PROPORTIONS.find(options.proportions)
        lineage = read_lineage(options.run_dir) if (options.run_dir / LINEAGE_FILE).exists() else None
        if lineage is None:
            print("\n".join(_answer(read_ledger(options.run_dir), options)))
        else:
            print("\n".join(_answer_of_lineage(lineage, options.sample)))
    except (ValueError, OSError) as error:
        hint = f"; add --proportions {error.name}" if isinstance(error, UnnamedVariantError) else ""
        print(f"drb: error: {error}{hint}", file=sys.stderr)
        return 1
    return 0


def _answer(ledger: Ledger | RehearsalLedger, options: argparse.Namespace) -> list[str]:
    if options.step is not None:
        return ledger.step(options.step)
    lacks = ledger.lacks if isinstance(ledger, RehearsalLedger) else ""
    note = [f"the ledger lacks the steps {lacks}: what these were trained on is not known"] if lacks else []
    if options.mixture:
        return [*ledger.mixture(), *note]
    steps, seen_by = ledger.sample(options.sample)
    times = f"{len(steps)} of {ledger.steps} steps" if steps else f"none of {ledger.steps} steps"
    return [
        f"{options.sample} was trained in {times}" + (f": {', '.join(map(str, steps))}" if steps else ""),
        f"seen by {', '.join(seen_by) or 'no checkpoint or export that is left'}",
        *note,
    ]


def _answer_of_lineage(lineage: Lineage, sample: str | None) -> list[str]:
    if sample is None:
        raise ValueError(f"{lineage.folder} holds a lineage: give the run of a version, such as {lineage.run_dir(1)}")
    if not is_sample_id(sample):
        raise ValueError(f"a sample of a lineage is named by its id, such as 17, got {sample!r}")
    return versions_that_saw(lineage, int(sample))
