"""What a campaign showed, as lines, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from faults.outcome import TIMEOUT_S, Outcome

_WIDTH = 150


def print_line(outcome: Outcome) -> None:
    fault = outcome.fault
    print(f"{'failed' if outcome.problems else 'ok':6s} {fault.name:36s} {outcome.seconds:5.1f} s", flush=True)
    for problem in outcome.problems:
        print(f"       {problem}", flush=True)


def print_table(outcomes: Sequence[Outcome], seconds: float) -> None:
    print(f"\n{'fault':16s} {'target':15s} W rank {'how':22s} {'end':>6s} lost orphans leaks message")
    for outcome in sorted(outcomes, key=lambda o: (o.fault.kind, o.fault.target)):
        fault = outcome.fault
        how = f"{fault.launcher}, {fault.exchange}"
        numbers = f"{outcome.seconds:5.1f}s {outcome.lost:4d} {outcome.orphans:7d} {outcome.leaks:5d}"
        who = f"{fault.world_size} {fault.rank:4d}"
        print(f"{fault.kind:16s} {fault.target:15s} {who} {how:22s} {numbers} {outcome.message[:_WIDTH]}")
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    targets = Counter(outcome.fault.target for outcome in outcomes)
    print(f"\n{len(outcomes)} faults in {seconds:.0f} s; hit: {dict(sorted(targets.items()))}")
    print("every case ended as promised" if not failed else f"{failed} cases failed")


def save(path: Path, outcomes: Sequence[Outcome], arguments: str, seconds: float) -> None:
    """Without the folders of this machine."""
    result = {
        "command": f"python -m faults {arguments}",
        "machine": {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.release()}"},
        "seconds": round(seconds),
        "timeout_s": TIMEOUT_S,
        "failed": sum(bool(outcome.problems) for outcome in outcomes),
        "cases": [
            {
                **outcome.to_json(),
                "seconds": round(outcome.seconds, 1),
                "message": " ".join("…" if "drb-faults-" in word else word for word in outcome.message.split()),
            }
            for outcome in outcomes
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
