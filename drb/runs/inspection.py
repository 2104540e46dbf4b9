"""What a checkpoint contains: as tables for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drb.checkpoint.directory import CheckpointDirectory
from drb.checkpoint.encryption import Key
from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.format import MANIFEST, Manifest, rank_part, read_manifest, read_part
from drb.checkpoint.ranks import read_rank_states
from drb.machine import format_bytes

_MOST_COLUMNS = 8  # ranks that have a column of their own
_HEADLINE = ("strategy", "dataset", "scenario", "model")


def find_checkpoint(path: Path) -> Path:
    """The path itself if it is a checkpoint, or the newest checkpoint of a run directory.

    Raises:
        CheckpointError: there is none.
    """
    if (path / MANIFEST).exists() or not (path / "checkpoints").is_dir():
        return path
    found = CheckpointDirectory(path / "checkpoints", 1).checkpoints()
    if not found:
        raise CheckpointError(f"{path} is a run directory without a checkpoint")
    return found[-1]


def inspect(path: Path, key: Key | None = None) -> dict[str, Any]:
    """Counts, ages in rounds and bytes by rank and stratum (class or group), and the run's position and configuration.

    Checksums of rows are not compared; `verify` does that.

    Raises:
        CheckpointError: it cannot be read.
    """
    manifest = read_manifest(path)
    trainer = read_part(path, manifest, "trainer")
    states = read_rank_states(path, key=key, check_rows=False)
    return {
        "checkpoint": str(path),
        "step": manifest.step,
        "world_size": manifest.world_size,
        "bytes": sum(record.size_bytes for record in manifest.files.values()),
        "encrypted": manifest.key_check is not None,
        "position": _position(trainer["trainer"]),
        "config": trainer.get("config"),
        "versions": trainer.get("versions"),
        "tracking_run_id": trainer.get("tracking_run_id"),
        "ranks": [_of_rank(rank, state, manifest) for rank, state in enumerate(states)],
    }


def describe(facts: Mapping[str, Any]) -> str:
    """The result of `inspect` as tables."""
    ranks = facts["ranks"]
    lines = [
        f"{facts['checkpoint']}: step {facts['step']}, {facts['world_size']} ranks, {format_bytes(facts['bytes'])}"
        + (", encrypted" if facts["encrypted"] else ""),
        *_headline(facts),
        "",
        *_aligned(
            [["rank", "stored", "strata", "age min", "median", "max", "size"]]
            + [[r["rank"], r["stored"], len(r["strata"]), *_ages(r["age"]), format_bytes(r["bytes"])] for r in ranks]
        ),
    ]
    if any(r["strata"] for r in ranks):
        lines += ["", *_aligned(_strata_table(ranks)), "", "ages are in rounds, one per minibatch"]
    return "\n".join(lines)


def _of_rank(rank: int, state: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    rehearsal = state.get("rehearsal") or {}
    columns = rehearsal.get("buffer", {}).get("columns")
    own = [record.size_bytes for name, record in manifest.files.items() if name.startswith(f"{rank_part(rank)}.")]
    facts = {"rank": rank, "stored": 0, "strata": {}, "age": None, "bytes": sum(own)}
    if columns is not None and len(columns["sample_id"]):
        strata, counts = np.unique(columns["stratum"], return_counts=True)
        ages = rehearsal["round"] - columns["admitted_round"]
        facts["stored"] = len(columns["sample_id"])
        facts["strata"] = dict(zip(strata.tolist(), counts.tolist(), strict=True))
        facts["age"] = {"min": int(ages.min()), "median": float(np.median(ages)), "max": int(ages.max())}
    return facts


def _position(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where the run is in its stream; tasks count from 1, as everywhere that people see them."""
    position = state.get("position")
    return None if position is None else {**position, "task": position["task"] + 1}


def _headline(facts: Mapping[str, Any]) -> list[str]:
    config, position = facts["config"], facts["position"]
    lines = []
    if position is not None:
        lines.append(f"task {position['task']}, epoch {position['epoch']}, minibatch {position['minibatch']}")
    if config is not None:
        names = [f"{part} {config[part]['name']}" for part in _HEADLINE if part in config]
        lines.append(", ".join([*names, f"seed {config.get('seed')}"]))
    return lines


def _strata_table(ranks: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """One row per stratum: its exemplars in total and on each rank; with many ranks, the least and the most."""
    strata = sorted({stratum for rank in ranks for stratum in rank["strata"]})
    counts = {stratum: [rank["strata"].get(stratum, 0) for rank in ranks] for stratum in strata}
    if len(ranks) <= _MOST_COLUMNS:
        head = ["stratum", "stored", *(f"rank {rank['rank']}" for rank in ranks)]
        return [head] + [[stratum, sum(c), *c] for stratum, c in counts.items()]
    head = ["stratum", "stored", "least on a rank", "most"]
    return [head] + [[stratum, sum(c), min(c), max(c)] for stratum, c in counts.items()]


def _ages(age: Mapping[str, float] | None) -> list[Any]:
    return ["-", "-", "-"] if age is None else [age["min"], f"{age['median']:g}", age["max"]]


def _aligned(rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)) for row in cells]
