"""All benchmarks, one after the other, and which of them keep what they claim: `make bench`, `make bench-quick`.

python -m benchmarks [--quick] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = (
    "sampler_draw",
    "buffer_gather",
    "buffer_add",
    "memory",
    "exchange_fetch",
    "scaling",
    "extend_cpu",
    "extend_device",
    "overlap",
    "rounds_ahead",
    "hidden_delay",
    "online_small",
    "loader",
    "mix",
    "ledger",
    "prefill",
    "storage",
    "checkpoint_pause",
)
NOT_QUICK = ("checkpoint_pause",)  # minutes, whatever is left out
SLOW = {
    "online_small": ["--seeds", "0"],
    "overlap": ["--jobs", "mlp", "cnn"],
    "rounds_ahead": ["--jobs", "mlp"],
}


def verdicts(figures: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """Every `holds` below a benchmark's figures, with what it is about."""
    if isinstance(figures, dict):
        if "holds" in figures:
            yield path, bool(figures["holds"])
        for key, value in figures.items():
            yield from verdicts(value, f"{path} / {key}" if path else str(key))


def run(name: str, quick: bool) -> None:
    options = ["--quick", *SLOW.get(name, [])] if quick else []
    start = time.monotonic()
    subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *options],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    result = HERE / "results" / ("quick" if quick else "") / f"{name}.json"
    for what, holds in verdicts(json.loads(result.read_text())["figures"]):
        print(f"    {'holds' if holds else 'FALLS SHORT'}  {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats: shows that all of them run, not much more")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    arguments = parser.parse_args()
    names = [name for name in NAMES if not (arguments.quick and name in NOT_QUICK)]
    for name in arguments.names or names:
        run(name, arguments.quick)


if __name__ == "__main__":
    main()
