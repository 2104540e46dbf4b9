"""What was measured, as one JSON and one table: `<card>-<date>.{json,md}`."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

_HERE = str(Path(__file__).parent)


def machine(device: torch.device, commit: str | None = None) -> dict[str, Any]:
    """What has to be known of a machine to compare its figures with others'. commit: None asks git."""
    facts: dict[str, Any] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit or _commit(),
    }
    if device.type != "cuda":
        return {"card": "cpu", **facts}
    properties = torch.cuda.get_device_properties(device)
    return {
        "card": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        **facts,
    }


def new_path(facts: Mapping[str, Any], folder: Path, part: str = "") -> Path:
    """Where the table of a check goes that now begins: no file of an earlier check is overwritten.

    facts: of the machine. part: what was measured, if that is not everything.
    """
    card = re.sub(r"[^a-z0-9]+", "-", facts["card"].lower()).strip("-")
    name = "-".join(filter(None, (card, facts["date"], part)))
    numbered = (folder / f"{name}{'' if number == 1 else f'-{number}'}.md" for number in itertools.count(1))
    return next(path for path in numbered if not path.exists() and not path.with_suffix(".json").exists())


def save(found: Mapping[str, Any], path: Path) -> None:
    """Write the table to `path`, and all figures as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    path.write_text("\n".join(table(found)) + "\n")


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a Markdown page."""
    facts = found["machine"]
    yield f"# {facts['card']}, {facts['date']}"
    yield ""
    yield "; ".join(f"{name} {value}" for name, value in facts.items() if name not in ("card", "date"))
    yield ""
    if "steps" in found:
        yield from _steps(found["steps"])
    if "ranks" in found:
        for world_size, figures in found["ranks"].items():
            ratios = (f"{name} {k['ratio']:.2f}" for name, k in figures["kinds"].items() if "ratio" in k)
            yield f"{world_size} ranks on this GPU: {', '.join(ratios)}; wrong rows {sum(figures['wrong'].values())}"
        yield ""
    if "soak" in found:
        rows, wrong = (sum(figures[what] for figures in found["soak"].values()) for what in ("rows", "wrong"))
        yield f"Soak: {len(found['soak'])} loops, {rows:,} rows checked on the device, {wrong} wrong."
        yield ""
    if "pause" in found:
        for model, pause in found["pause"].items():
            first, later = pause["first_share"], pause["later_share"]
            yield f"Checkpoint, {model}: stops training for {first:.1%} of 50 steps, later for {later:.1%} at most."
        yield ""
    if "program" in found:
        for job, figures in found["program"].items():
            shown = figures if isinstance(figures, str) else _program(figures)
            yield f"Whole program, {job}: {shown}"
        yield ""
    if "limits" in found:
        yield "| operation | host µs | device µs |"
        yield "|---|---|---|"
        for name, value in found["limits"].items():
            if "host" in value:
                yield f"| {name} | {value['host']} | {value['device']} |"
        yield ""
        yield f"GB/s: {found['limits']['GB/s']}"
        yield ""
    for piece, status in found.get("pieces", {}).items():
        yield f"{piece}: {status}"


def _steps(steps: Mapping[str, Any]) -> Iterator[str]:
    names = list(
        dict.fromkeys(name for job in steps.values() for name in job["kinds"] if "ratio" in job["kinds"][name])
    )
    yield "Step ÷ plain DDP on b + r, one rank (90 % interval; extra milliseconds):"
    yield ""
    yield f"| job | plain ms | {' | '.join(names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for job, figures in steps.items():
        cells = [_cell(figures["kinds"].get(name)) for name in names]
        yield f"| {job} | {figures['plain_ms']:.2f} | {' | '.join(cells)} |"
    yield ""
    yield "Training thread, inside `extend`:"
    yield ""
    yield "| job | minibatch | CUDA calls | their µs | µs of extend | of the round |"
    yield "|---|---|---|---|---|---|"
    for job, figures in steps.items():
        for name, inside in figures["extend"].items():
            calls, times = inside["cuda_calls"], inside["us_per_round"]
            yield (
                f"| {job} | {name} | {calls.get('calls', '')} | {calls.get('us', '')} | {times.get('extend', '')} | "
                f"{times.get('round', '')} |"
            )
    yield ""
    wrong = sum(way["wrong"] for job in steps.values() for way in job["wrong"].values())
    rows = sum(way["rows"] for job in steps.values() for way in job["wrong"].values())
    yield f"{wrong} of {rows} rows that were looked at are wrong."
    yield ""


def _program(figures: Mapping[str, Any]) -> str:
    medians = {kind: statistics.median(runs) for kind, runs in figures["ms"].items() if runs}
    ratios = figures.get("ratio", {})
    shown = (
        f"{kind} {ms:.2f} ms" + (f" (x{ratios[kind]:.3f})" if kind in ratios else "") for kind, ms in medians.items()
    )
    return f"{', '.join(shown)} a step; {len(figures['ms']['finetune'])} turns."


def _cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return ""
    return f"{figures['ratio']:.3f} [{figures['low']:.3f}, {figures['high']:.3f}]; {figures['extra_ms']:+.2f}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of this checkout, with +changes if a file that git knows differs from it."""
    commit = _output("git", "-C", _HERE, "rev-parse", "--short", "HEAD")
    differs = commit != "unknown" and _output("git", "-C", _HERE, "diff", "--quiet", "HEAD") == "unknown"
    return commit + "+changes" * differs


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
