"""What a study's folder holds: for each run a directory with `study_run.json`, the record of its last start.

A run is done if its `summary.json` is there and its record has the settings that the study asks for. Records and
summaries are written atomically, so a study that is killed at any moment can be started again. `study.json` says whose
the folder is. What another study, another command or other settings have left there is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from drb.program.config import TrainConfig
from drb.program.summary import write_atomically
from drb.runs.report import Summary
from drb.study.checks import require_same_config_today, require_same_run, require_same_study, require_summary
from drb.study.definition import STARTS, Study, StudyRun
from drb.study.queue import jobs_in_queue

Status = Literal["done", "failed", "open"]
RECORD, OWNER = "study_run.json", "study.json"


@dataclass(frozen=True)
class Result:
    """What is known of a run.

    status:   done; failed (its last start ended with an error); or open (not started, or stopped before its end).
    summary:  the run's summary.json if it is done.
    error:    what a failed run said last.
    job:      the Slurm job of an open run that waits or runs; else empty.
    launcher: what started its ranks here, one of `drb.study.definition.STARTS`.
    """

    run: StudyRun
    status: Status
    summary: Summary | None = None
    error: str = ""
    job: str = ""
    launcher: str = "torchrun"

    @property
    def command(self) -> str:
        """A command line that repeats the run outside the study."""
        return self.run.command(self.launcher)


def read_results(study: Study, folder: Path) -> list[Result]:
    """One result for each run of the study, in its order.

    Raises:
        ValueError: the folder is another study's, a directory in it holds a run with other settings or on other ranks
            or an incomplete summary, or Slurm was given some of the runs and does not answer.
    """
    require_same_study(study.name, (_read(folder / OWNER) or {}).get("study"), folder)
    queue = cache(jobs_in_queue)
    return [read_result(run, folder, queue) for run in study.runs]


def read_result(run: StudyRun, folder: Path, queue: Callable[[], Mapping[str, str]] = jobs_in_queue) -> Result:
    """The result of one run.

    Args:
        queue: tells which jobs wait or run; only called if the run was given to Slurm and has not ended.
    Raises:
        ValueError: as `read_results`.
    """
    run_dir = folder / run.folder
    record = _read(run_dir / RECORD)
    summary = _read(run_dir / "summary.json")
    if record is None and summary is None:
        return Result(run, "open")
    require_same_run(run, record, run_dir)
    record = record or {}
    launcher = record.get("launcher")
    begun = Result(run, "open", launcher=launcher if launcher in STARTS else "torchrun")
    if summary is not None:
        require_summary(run, summary, run_dir)
        return replace(begun, status="done", summary=summary)
    if job := record.get("job"):
        if job in (waiting := queue()):
            return replace(begun, job=waiting[job])
        output = Path(record["output"])
        said = last_line(output, "drb: error:") or last_line(output)  # srun may have the last word
        return replace(begun, status="failed", error=f"{said} (all it said: {output})") if said else begun
    return replace(begun, status="failed", error=str(record["error"])) if record.get("error") else begun


def require_same_configs(results: Iterable[Result], configs: Mapping[str, TrainConfig], folder: Path) -> None:
    """Refuse what was done while the same settings had another meaning, such as before an experiment's file changed.

    Args:
        configs: those of the points today, by label: see `drb.study.definition.check_study`.
    Raises:
        ValueError: naming the run, the setting and both values.
    """
    for result in results:
        if result.summary is not None:
            config = asdict(configs[result.run.point.label])
            require_same_config_today(result.run, result.summary, config, folder / result.run.folder)


def origins(results: Iterable[Result]) -> dict[str, list[str]]:
    """Versions, device, data, hosts and git commits of all done runs: every value that there is, by its name."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        summary: Mapping[str, Any] = result.summary or {}
        own = {"device": summary.get("device"), "data": summary.get("data")}
        facts = {**(summary.get("versions") or {}), **own, **(summary.get("machine") or {})}
        for name, value in facts.items():
            if value is not None:
                found.setdefault(name.replace("_", " "), {})[str(value)] = None
    return {name: list(values) for name, values in found.items()}


def mixture(results: Iterable[Result]) -> str:
    """What tells done runs apart besides their settings, in a sentence; empty if nothing does. Hosts may differ."""
    mixed = [name for name, values in origins(results).items() if len(values) > 1 and name not in ("host", "nodes")]
    return f"The runs differ in {', '.join(mixed)}, so compare them with care." if mixed else ""


def write_owner(study: Study, folder: Path) -> None:
    """Note whose folder it is."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / OWNER, {"study": study.name})


def write_record(run: StudyRun, folder: Path, **facts: Any) -> None:
    """Note what is known of a run's last start, before it starts and when it has failed."""
    (folder / run.folder).mkdir(parents=True, exist_ok=True)
    record = {"name": run.name, "settings": run.settings, "ranks": run.point.ranks, **facts}
    write_atomically(folder / run.folder / RECORD, record)


def last_line(path: Path, start: str = "") -> str:
    """The last line of a file that is not blank and begins so; empty if there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip() and line.startswith(start)), "")


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
