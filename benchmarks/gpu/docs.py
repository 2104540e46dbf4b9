"""The tables of docs/gpu.md, ready to paste: `python -m benchmarks.gpu.docs RESULT.json … [--before RESULT.json]`.

Several results of one card are put together piece by piece, and what is measured by job, model or number of ranks one
by one; of two figures of the same thing the one from the later file counts. The commits are stated below the tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

BEFORE = Path(__file__).parents[1] / "results/gpu/nvidia-h100-80gb-hbm3-2026-11-26-fc9cd9a.json"
_NAMES = {"resnet50": "ResNet-50", "resnet18": "ResNet-18", "cnn": "CNN 32²"}
_ORDER = ("resnet50 256+32", "resnet18 256+32", "resnet50 56+7", "resnet18 56+7", "cnn 256+32", "cnn 56+7")
_WAYS = {"on the GPU": ("on the gpu", "stored on the gpu"), "`device=`": ("device=", "device=, stored on the gpu")}


def merged(results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """The pieces' figures, and for each commit what was measured at it."""
    found: dict[str, dict[str, Any]] = {}
    at: dict[tuple[str, str], str] = {}
    for result in results:
        for piece in result.keys() - {"machine", "pieces"}:
            found.setdefault(piece, {}).update(result[piece])
            at |= {(piece, key): result["machine"].get("commit", "unknown commit") for key in result[piece]}
    commits: dict[str, list[str]] = {}
    for (piece, key), commit in sorted(at.items()):
        commits.setdefault(commit, []).append(f"{piece} {key}" if piece in ("steps", "pause", "program") else piece)
    return found, {commit: list(dict.fromkeys(what)) for commit, what in commits.items()}


def tables(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    """The lines of all tables, those for which there are figures."""
    if "steps" in now:
        yield from steps(now["steps"], before.get("steps", {}))
    if "pause" in now:
        yield from pause(now["pause"], before.get("pause", {}))
    if "program" in now:
        yield from program(now["program"])
    if "ranks" in now:
        yield from ranks(now["ranks"])


def steps(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    heads = [f"{way}: before | rows on the host | rows on the GPU" for way in _WAYS]
    yield from _head("job", "plain ms", "A/A", *" | ".join(heads).split(" | "))
    for job in sorted(now, key=lambda job: _ORDER.index(job) if job in _ORDER else len(_ORDER)):
        kinds, old = now[job]["kinds"], before.get(job, {}).get("kinds", {})
        cells = [_ratio(kinds.get("plain again"))]
        for host, device in _WAYS.values():
            cells += [_ratio(old.get(host)), _ratio(kinds.get(host)), _ratio(kinds.get(device))]
        yield _row(_name(job), f"{now[job]['plain_ms']:.3g}", *cells)
    yield ""


def pause(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    yield from _head(
        "checkpoint", "step ms", "before: first", "later", "now: first", "later", "steps while it is written"
    )
    for model, figures in now.items():
        old = before.get(model)
        cells = [*_pauses(old)] if old else ["", ""]
        slower = f"{1 + figures['share_while_writing']:.3f}"
        yield _row(_NAMES.get(model, model), f"{figures['step_ms']:.1f}", *cells, *_pauses(figures), slower)
    yield ""


def program(now: Mapping[str, Any]) -> Iterator[str]:
    yield from _head("whole program", "`finetune` ms", "`er`", "ratio", "`er`, `storage=device`", "ratio", "turns")
    for job, figures in now.items():
        if not isinstance(figures, str):
            ms = {kind: f"{statistics.median(runs):.2f}" for kind, runs in figures["ms"].items() if runs}
            cells = [ms.get("finetune", "")]
            for kind in ("er", "er, stored on the gpu"):
                ratio = figures.get("ratio", {}).get(kind)
                cells += [ms.get(kind, ""), "" if ratio is None else f"{ratio:.3f}"]
            yield _row(_name(job), *cells, str(len(figures["ms"]["finetune"])))
    yield ""


def ranks(now: Mapping[str, Any]) -> Iterator[str]:
    names = list(dict.fromkeys(name for figures in now.values() for name in figures["kinds"]))
    names = [name for name in names if any("ratio" in figures["kinds"].get(name, {}) for figures in now.values())]
    yield from _head("ranks on one GPU", *names, "wrong rows")
    for world_size, figures in now.items():
        cells = [_ratio(figures["kinds"].get(name)) for name in names]
        yield _row(world_size, *cells, str(sum(figures["wrong"].values())))
    yield ""


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|---" * len(names) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _name(job: str) -> str:
    model, _, rows = job.partition(" ")
    return f"{_NAMES.get(model, model)}, {rows}"


def _ratio(figures: Mapping[str, Any] | None) -> str:
    """1.003 [1.002, 1.003] +0.19: the ratio, its 90 % interval if it is known, extra milliseconds."""
    if figures is None or "ratio" not in figures:
        return ""
    shown = f"{figures['ratio']:.3f}"
    if "low" in figures:
        shown += f" [{figures['low']:.3f}, {figures['high']:.3f}]"
    return shown + (f" {figures['extra_ms']:+.2f}" if "extra_ms" in figures else "")


def _pauses(figures: Mapping[str, Any]) -> tuple[str, str]:
    first, *later = figures["pause_ms"]
    return f"{first:.0f} ms, {figures['first_share']:.1%}", f"{max(later):.0f} ms, {figures['later_share']:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--before", type=Path, default=BEFORE)
    options = parser.parse_args()
    now, commits = merged([json.loads(path.read_text()) for path in options.results])
    print("\n".join(tables(now, json.loads(options.before.read_text()))))
    print("\n".join(f"{commit}: {', '.join(what)}" for commit, what in commits.items()))


if __name__ == "__main__":
    main()
