"""For benchmarks that can measure another checkout of drb: `--drb FOLDER`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

_MARK = "DRB_BENCHMARK_CHECKOUT"  # set in the process that measures


def parse_in_checkout(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, with --drb, and go on in a process that imports drb from that folder.

    It returns in that process only; the one that was started by hand ends with the exit status of the other.
    """
    parser.add_argument("--drb", type=Path, default=Path(__file__).parents[1], help="measure another checkout")
    arguments = parser.parse_args()
    if _MARK not in os.environ:
        environment = {**os.environ, _MARK: "here", "PYTHONPATH": str(arguments.drb)}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    return arguments
