"""Which of a run's numbers become charts of the tracker: about 25, in groups; the rest is in summary.json.

train       loss, rate and throughput at each logged point
rehearsal   how full the buffers are, and how much of the rounds is overlapped with training
breakdown   milliseconds per step of each part of the training thread (docs/breakdown.md)
accuracy    (or another main metric) over all tasks and on each, at the end of each task: against the optimisation
            step, as `accuracy/by_task` against the number of tasks and as `accuracy/by_samples` against the samples
            that were trained on, so that runs of different lengths line up
transfer    forgetting and backward transfer
test        the mean over the tasks of every other metric
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from drb.training.reporting.breakdown import TRAINING
from drb.training.reporting.live import overlapped_share

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal

_MOST_TASKS = 6  # that have a chart of their own
_WHERE_NOT_ZERO = ("train/nonfinite_steps", "rehearsal/duplicate_share", "time/checkpoint_seconds")
_CONSTANTS = ("exemplars", "depth", "interval", "draws", "capacity", "capacity_total", "bytes_per_rank", "exchange")


def interval_charts(metrics: Mapping[str, float], rehearsal: Rehearsal | None) -> dict[str, float]:
    """The charts of one point of training, and of how the rehearsal does on this rank."""
    parts = {f"breakdown/{name}_ms" for name in TRAINING}
    kept = {
        name: value
        for name, value in metrics.items()
        if name in ("train/loss", "train/learning_rate", "train/samples_per_second")
        or name.startswith("train/penalty/")
        or name in parts
        or (name in _WHERE_NOT_ZERO and value)
    }
    return kept | _rehearsal_charts(rehearsal)


def constants(rehearsal: Rehearsal | None) -> dict[str, Any]:
    """What a rehearsal has settled on and does not change: params, and no charts."""
    stats = {} if rehearsal is None else rehearsal.stats()
    found = {name: stats[name] for name in _CONSTANTS if stats.get(name) is not None}
    return {"rehearsal_settled": {**found, "asynchronous": stats["asynchronous"]}} if found else {}


def task_charts(metrics: Mapping[str, float], main: str) -> dict[str, float]:
    """The charts of an evaluation, by the optimisation step. main: the metric that counts."""
    others: dict[str, list[float]] = {}
    kept = {}
    for name, value in metrics.items():
        group, _, rest = name.partition("/")
        if name in ("bwt", "forgetting"):
            kept[f"transfer/{name}"] = value
        elif rest.startswith("task_") and group != main:
            others.setdefault(group, []).append(value)
        elif rest.startswith("task_"):
            kept |= {name: value} if int(rest.removeprefix("task_")) <= _MOST_TASKS else {}
        elif rest and group != "cost" and (value or name not in _WHERE_NOT_ZERO):
            kept[name] = value
    return kept | {f"test/{name}": fmean(values) for name, values in others.items()}


def _rehearsal_charts(rehearsal: Rehearsal | None) -> dict[str, float]:
    if rehearsal is None:
        return {}
    stats, counts = rehearsal.stats(), rehearsal.counts().values()
    charts = {"rehearsal/stored_total": float(stats["stored_total"])}
    if (share := overlapped_share(stats)) is not None:
        charts["rehearsal/overlapped_share"] = share
    for name in ("exemplars", "old_accuracy") if "exemplars_mean" in stats else ():
        charts |= {} if stats[name] is None else {f"rehearsal/{name}": float(stats[name])}
    if counts:
        charts |= {"rehearsal/fewest_per_stratum": min(counts), "rehearsal/most_per_stratum": max(counts)}
    return charts
