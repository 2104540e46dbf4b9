"""The commands `drb inspect` and `drb verify`: what a checkpoint contains, and whether it is intact."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from drb.checkpoint.encryption import read_key
from drb.runs.inspection import describe, find_checkpoint, inspect
from drb.runs.verification import verify


def main(command: str, arguments: Sequence[str]) -> int:
    """Run inspect or verify; returns the exit code."""
    options = _parser(command).parse_args(arguments)
    try:
        path = find_checkpoint(options.path)
        key = None if options.key_file is None else read_key(options.key_file)
        if command == "verify":
            found = verify(path, key)
            print(
                f"{path}: good, {found.files} files, {found.bytes / 1e6:,.1f} MB, {found.exemplars:,} exemplars on "
                f"{found.ranks} ranks"
            )
        else:
            facts = inspect(path, key)
            print(json.dumps(facts, indent=1) if options.json else describe(facts))
    except (ValueError, OSError) as error:
        print(f"drb: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _parser(command: str) -> argparse.ArgumentParser:
    what = {
        "inspect": "Show what a checkpoint contains: exemplars by rank and stratum, ages, bytes, step, configuration.",
        "verify": "Check every file and row of a checkpoint; exit code 1 and one line if something is wrong.",
    }
    parser = argparse.ArgumentParser(prog=f"drb {command}", description=what[command])
    parser.add_argument("path", type=Path, metavar="CHECKPOINT", help="its directory, or a run's: the newest one there")
    parser.add_argument("--key-file", type=Path, help="the key that it is encrypted with (checkpoint.key_file)")
    if command == "inspect":
        parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    return parser
