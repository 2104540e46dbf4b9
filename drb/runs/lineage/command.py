"""`drb lineage` and `drb rollback`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from drb.runs.lineage.picture import picture
from drb.runs.lineage.record import Lineage, lock_lineage, read_lineage
from drb.runs.lineage.show import as_text, page
from drb.tracking.lineage import point_alias


def main(command: str, arguments: Sequence[str]) -> int:
    """Run one of the two commands; returns the exit code."""
    run, parser = (_lineage, _lineage_parser()) if command == "lineage" else (_rollback, _rollback_parser())
    options = parser.parse_args(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"drb: error: {error}", file=sys.stderr)
        return 1
    return 0


def _lineage_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drb lineage", description="Show the versions of a model that drb update made."
    )
    parser.add_argument("state", type=Path, metavar="DIR", help="the folder of drb update --state")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with the table and the picture")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the versions and their accuracy as a PNG")
    return parser


def _rollback_parser() -> argparse.ArgumentParser:
    description = "Make an earlier version of a model current. Nothing is deleted; the next update goes on from it."
    parser = argparse.ArgumentParser(prog="drb rollback", description=description)
    parser.add_argument("state", type=Path, metavar="DIR", help="the folder of drb update --state")
    parser.add_argument("--to", type=int, metavar="N", help="the version; the parent of the current one if not given")
    parser.add_argument("--force", action="store_true", help="take a version that failed its gates, too")
    return parser


def _lineage(options: argparse.Namespace) -> None:
    lineage = existing_lineage(options.state)
    lineage.set_link()
    print(as_text(lineage))
    if options.html is not None:
        options.html.write_text(page(lineage), encoding="utf-8")
    if options.plot is not None:
        options.plot.write_bytes(picture(lineage))


def _rollback(options: argparse.Namespace) -> None:
    existing_lineage(options.state)
    lock = lock_lineage(options.state, "drb rollback")
    lineage = existing_lineage(options.state)
    before = lineage.current
    version = lineage.roll_back(options.to, force=options.force)
    lock.release()
    point_alias(lineage.tracking, version.number)
    print(f"version {version.number} is current, it was {before}: {lineage.run_dir(version.number)}")


def existing_lineage(folder: Path) -> Lineage:
    """Raises ValueError if the folder holds no lineage, or one without versions."""
    lineage = read_lineage(folder) if folder.exists() else None
    if lineage is None or not lineage.versions:
        raise ValueError(f"{folder} holds no lineage: make one by drb update --state {folder} --data PATH")
    return lineage
