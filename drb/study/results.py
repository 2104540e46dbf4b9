"""What a study's folder holds: for each run a directory with `study_run.json`, the record of its last start.

A run is done if its `summary.json` is there and its record has the settings that the study asks for. Records and
summaries are written atomically, so a study that is killed at any moment can be started again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drb.program.summary import write_atomically
from drb.runs.report import Summary
from drb.study.definition import Study, StudyRun

Status = Literal["done", "failed", "open"]
RECORD = "study_run.json"


@dataclass(frozen=True)
class Result:
    """What is known of a run.

    status:  done; failed (its last start ended with an error); or open (not started, or stopped before its end).
    summary: the run's summary.json if it is done.
    error:   what a failed run said last.
    """

    run: StudyRun
    status: Status
    summary: Summary | None = None
    error: str = ""


def read_results(study: Study, folder: Path) -> list[Result]:
    """One result for each run of the study, in its order.

    Raises:
        ValueError: a directory holds a run with other settings.
    """
    return [read_result(run, folder) for run in study.runs]


def read_result(run: StudyRun, folder: Path) -> Result:
    run_dir = folder / run.folder
    record = _read(run_dir / RECORD)
    if record is None:
        return Result(run, "open")
    wanted = {"settings": run.settings, "ranks": run.point.ranks}
    if found := [key for key, value in wanted.items() if record.get(key) != value]:
        raise ValueError(
            f"{run_dir} was run with {found[0]} {record.get(found[0])}, the study asks for {wanted[found[0]]}; give "
            "another folder with --out, or delete that one"
        )
    summary = _read(run_dir / "summary.json")
    if summary is not None:
        return Result(run, "done", summary)
    return Result(run, "failed", error=str(record["error"])) if record.get("error") else Result(run, "open")


def write_record(run: StudyRun, folder: Path, **facts: Any) -> None:
    """Note what is known of a run's last start, before it starts and when it has failed."""
    (folder / run.folder).mkdir(parents=True, exist_ok=True)
    record = {"name": run.name, "settings": run.settings, "ranks": run.point.ranks, **facts}
    write_atomically(folder / run.folder / RECORD, record)


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
