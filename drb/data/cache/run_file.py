"""A run directory's note of the folders outside of it that hold samples which the run reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_NAME = "data.json"


@dataclass(frozen=True)
class RunFile:
    """The folders' paths, None for what the run does not read.

    cache: of the data set. prefilled: `rehearsal.prefilled`.
    run_dir: where the note was written, of which this run directory may be a copy.
    """

    cache: Path | None
    prefilled: Path | None
    run_dir: Path


def write_run_file(run_dir: Path, cache: Path | None, prefilled: str | None) -> None:
    """Write the note, unless there is nothing to note."""
    if cache is None and prefilled is None:
        return
    folders = {
        "cache": None if cache is None else str(cache),
        "prefilled": None if prefilled is None else str(Path(prefilled).expanduser().absolute()),
    }
    unfinished = run_dir / f"{_NAME}.new"
    unfinished.write_text(json.dumps({**folders, "run_dir": str(run_dir.resolve())}, indent=2), encoding="utf-8")
    unfinished.replace(run_dir / _NAME)


def read_run_file(run_dir: Path) -> RunFile | None:
    """The note; None if there is none."""
    try:
        known = json.loads((run_dir / _NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    cache, prefilled = (None if known.get(name) is None else Path(known[name]) for name in ("cache", "prefilled"))
    return RunFile(cache, prefilled, Path(known.get("run_dir", run_dir)))
