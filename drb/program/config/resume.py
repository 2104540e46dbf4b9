"""Whether a run may go on with another configuration: what decides the result must be as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drb.data.scenarios import SCENARIOS
from drb.program.config.rehearsal import KINDS
from drb.program.config.variants import GROUPS

NUM_TASKS = "scenario.num_tasks"
SHARES = "rehearsal.proportions_options.shares"
_MAY_CHANGE = (
    "name",
    "run_id",
    "device",
    "threads",
    "timeout_s",
    "dataset.root",
    "dataset.files",  # what is in them is compared
    "dataset.changed",
    "dataset.removed",
    "dataset.renamed",
    "dataset.workers",
    "dataset.cache",
    "dataset.cache_dir",
    "dataset.cache_limit",
    "scenario.schedule",  # of shares; what of it is over is compared
    "training.eval_batch_size",
    "training.log_every",
    "training.on_nonfinite",  # so that a run that stopped can go on
    "rehearsal.exchange",
    "rehearsal.storage",
    "rehearsal.storage_folder",
    "rehearsal.device_share",
    "rehearsal.asynchronous",
    "rehearsal.timeout_s",
    "rehearsal.depth",
    "rehearsal.interval",
    "rehearsal.max_age",
    "rehearsal.allow_duplicates",
    "checkpoint",
    "tracking",
    "profile",
    "ledger",
    "kept",
    "profiling",
)

_REMEDY = "go on with the same, choose another run directory (hydra.run.dir) or start anew with checkpoint.resume=never"


def require_same_config(
    saved: Mapping[str, Any], now: Mapping[str, Any], where: str, begun: int | None = None, remedy: str = _REMEDY
) -> None:
    """Compare the configuration with that of the run that is resumed.

    Args:
        begun: how many tasks the run has begun: one that took all there were may go on with so many, or more.
        remedy: what the message advises.
    Raises:
        ValueError: naming the first setting that differs, with both values, unless it may.
    """
    before, after = dict(_flatten(saved)), dict(_flatten(now))
    for key in [*after, *(before.keys() - after.keys())]:
        may_change = any(key == free or key.startswith(f"{free}.") for free in _MAY_CHANGE)
        if not may_change and before.get(key) != after.get(key):
            if key == NUM_TASKS and has_more_tasks(saved, now, None if begun is None else begun - 1):
                continue
            if key == SHARES and _is_longer_schedule(before, after):
                continue
            if is_name_outside(key, before.get(key)):
                raise ValueError(_name_it(where, key.removesuffix(".name"), str(before[key])))
            then, today = _shown(before.get(key)), _shown(after.get(key))
            raise ValueError(f"{where} was made with {key}={then}, this run has {today}; {remedy}")


def require_same_past(saved: Mapping[str, Any], now: Mapping[str, Any], where: str, steps: int) -> None:
    """Compare the schedules of shares (scenario=base_plus_new) as far as they were followed.

    steps: how many optimisation steps were trained.
    Raises:
        ValueError: another schedule before that.
    """
    before, after = (
        {int(step): shares for step, shares in (config["scenario"].get("schedule") or {}).items() if int(step) < steps}
        for config in (saved, now)
    )
    if before != after:
        raise ValueError(
            f"{where} has trained {steps} steps with scenario.schedule={before} up to there, this run has {after}; "
            f"only what comes from step {steps} on may change"
        )


def has_more_tasks(saved: Mapping[str, Any], now: Mapping[str, Any], done: int | None = None) -> bool:
    """Whether a run has the tasks of a saved one and more behind them, so that it can go on where that one ended.

    Args:
        done: the tasks that a saved one without a number of tasks had.
    """
    section = dict(now["scenario"])
    earlier, later = saved["scenario"].get("num_tasks"), section.get("num_tasks")
    if earlier is None:
        is_longer = done is not None and later is not None and later > done
    else:
        is_longer = later is None or later > earlier
    if not is_longer or section != {**saved["scenario"], "num_tasks": later}:
        return False
    name = section.pop("name")
    return SCENARIOS.build(SCENARIOS.recall(name), section).keeps_earlier_tasks


def _is_longer_schedule(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether proportions=schedule has more entries, for more tasks or steps. It never draws beyond its last one."""
    if before.get("rehearsal.proportions") != "schedule" or SHARES not in before or SHARES not in after:
        return False
    known: list[Any] = before[SHARES]
    return bool(after[SHARES][: len(known)] == known)


def is_name_outside(key: str, value: Any) -> bool:
    """Whether a setting chooses a variant outside drb, by its dotted path."""
    return "." in str(value) and (key in _CHOICES or key.removesuffix(".name") in GROUPS)


def _name_it(where: str, setting: str, name: str) -> str:
    return (
        f"{where} was made with {setting} {name}, which is not part of drb and counts only if you name it: add "
        f"{setting}={name} to go on, choose another run directory (hydra.run.dir) or start anew with "
        "checkpoint.resume=never"
    )


_CHOICES = [f"rehearsal.{setting}" for setting in KINDS]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
