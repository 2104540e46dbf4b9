"""Whether what a study's folder holds is the study's: if not, one sentence names the run and what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drb.program.config.resume import require_same_config
from drb.runs.report import Summary
from drb.study.definition import StudyRun

REMEDY = "give another folder with --out, or delete that one"
_NEEDED = ("acc", "config", "history", "train_seconds", "world_size")


def require_same_study(name: str, owner: Any, folder: Path) -> None:
    """Refuse a folder that holds another study; owner: the name that the folder has noted, None if it has none."""
    if owner is not None and owner != name:
        raise ValueError(f"{folder} holds the study {owner}, not {name}; {REMEDY}")


def require_same_run(run: StudyRun, record: Mapping[str, Any] | None, run_dir: Path) -> None:
    """Refuse a run that was started with other settings or on other ranks, or by no study.

    record: what was noted of its last start; None if nothing was.
    Raises:
        ValueError: naming the settings that differ.
    """
    if record is None:
        raise ValueError(f"{run_dir} holds a run that no study has started; {REMEDY}")
    if differs := _difference(record.get("settings") or [], run.settings):
        raise ValueError(f"{run_dir} was run {differs}; {REMEDY}")
    _require_ranks(run, record.get("ranks"), run_dir)


def require_summary(run: StudyRun, summary: Summary, run_dir: Path) -> None:
    """Refuse a summary without what the page is made of, or of a run on other ranks (as sbatch may be told).

    Raises:
        ValueError: naming what is missing, or both numbers of ranks.
    """
    missing = [key for key in _NEEDED if key not in summary]
    if run.point.target is not None and len(summary.get("during", ())) != len(summary.get("during_seconds", ())):
        missing.append("during_seconds")  # the times of the scores in `during`, which older versions did not keep
    if missing:
        raise ValueError(
            f"{run_dir}/summary.json lacks {', '.join(missing)}, which the page of the study needs: another version of "
            f"drb has written it; delete {run_dir}, and the run is done again"
        )
    _require_ranks(run, summary["world_size"], run_dir)


def require_same_config_today(run: StudyRun, summary: Summary, config: Mapping[str, Any], run_dir: Path) -> None:
    """Refuse a run whose settings had another meaning when it was made, such as before an experiment's file changed.

    config: that of the run's point today, with any seed.
    Raises:
        ValueError: naming the setting and both values.
    """
    require_same_config(summary["config"], {**config, "seed": run.seed}, str(run_dir), remedy=REMEDY)


def _require_ranks(run: StudyRun, ranks: Any, run_dir: Path) -> None:
    if ranks != run.point.ranks:
        raise ValueError(f"{run_dir} was run on {ranks} ranks, the study asks for {run.point.ranks}; {REMEDY}")


def _difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    """What tells one list of key=value from the other, in words; empty if they are equal."""
    more, less = _without(found, wanted), _without(wanted, found)
    if more and less:
        return f"with {_joined(more)}, the study asks for {_joined(less)}"
    if more:
        return f"with {_joined(more)}, which the study does not ask for"
    if less:
        return f"without {_joined(less)}, which the study asks for"
    return (
        "" if list(found) == list(wanted) else "with the same settings in another order, of which the last one counts"
    )


def _without(settings: Sequence[str], others: Iterable[str]) -> list[str]:
    known = set(others)
    return [setting for setting in settings if setting not in known]


def _joined(settings: Sequence[str]) -> str:
    *first, last = settings
    return f"{', '.join(first)} and {last}" if first else last
