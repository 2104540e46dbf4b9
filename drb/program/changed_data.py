"""A run that goes on with data that is not what it was: refused by name, or taken up as the data is now.

With dataset.changed=allow the exemplars go to the owners that the data has now, as on another number of ranks, and the
epoch begins anew: which samples of it were seen is told by positions, and those have moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from drb.checkpoint import Checkpointer, Saved
from drb.data.datasets import Dataset
from drb.data.identity import Identity
from drb.data.ids import in_guise
from drb.data.scenarios import Scenario, build_scenario
from drb.data.scenarios.check import composition_of
from drb.program.config import TrainConfig
from drb.program.config.variants import build_variant
from drb.rehearsal.state.forget import forget_in_state
from drb.training.reporting.monitor import Console
from drb.types import Int64Array

CHANGED = "data_changed"  # among the facts of what a run goes on from
TASKS = "tasks"  # among the facts of a checkpoint: what its stream's tasks are made of
_REWRITTEN = (
    "files have other modification times than at {path}, with the same names and sizes: {parts}; if pictures were "
    "replaced, exemplars stay as they were stored"
)


def saved_identity(saved: Saved) -> Identity | None:
    """What the data was; None if the checkpoint does not say."""
    data = saved.facts.get("data")
    return None if data is None else Identity.from_json(data)


def tasks_of(config: TrainConfig, dataset: Dataset) -> list[list[str]]:
    """What the tasks of the run's stream are made of: see `composition_of`."""
    return composition_of(_scenario_of(config, dataset))


def _scenario_of(config: TrainConfig, dataset: Dataset) -> Scenario:
    return build_scenario(build_variant("scenario", config.scenario), dataset, seed=config.seed)


def with_data_of_now(
    saved: Saved,
    known: Identity,
    dataset: Dataset,
    config: TrainConfig,
    checkpointer: Checkpointer,
    console: Console | None,
) -> Saved:
    """What a run goes on from with this dataset: as it was saved if the data is the same. Collective.

    Raises:
        ValueError: the data has changed, and dataset.changed does not allow it.
    """
    changes, settings = dataset.identity.changes_since(known), config.dataset
    if not changes:
        _require_same_mixes(saved, config, dataset)
        if console is not None and (rewritten := dataset.identity.rewritten_since(known)):
            console.say(_REWRITTEN.format(path=saved.path, parts="; ".join(rewritten)))
        return saved
    told = f"the data is not what it was at {saved.path}: {'; '.join(changes)}"
    if settings.changed != "allow":
        raise ValueError(f"{told}; go on with the same data, or set dataset.changed=allow")
    if dataset.identity.source != known.source or dataset.identity.classes[: len(known.classes)] != known.classes:
        raise ValueError(f"{told}; that is another data set, and its labels mean something else")
    if config.strata.fields:
        raise ValueError(
            f"{told}; with it samples would be in other groups (strata) than exemplars were stored in: go on with the "
            "same data"
        )
    _require_same_tasks(saved, told, config, dataset)
    saved = checkpointer.find_of_all_ranks(saved)
    states, num_gone, num_stored = _without_the_gone(saved, dataset, forget=settings.removed == "forget")
    if console is not None:
        verb = "forgotten" if settings.removed == "forget" else "kept"
        gone = f"; {num_gone} of {num_stored} exemplars, whose samples are gone, are {verb}" if num_gone else ""
        console.say(
            f"the data has changed since {saved.path}, which dataset.changed=allow accepts: {'; '.join(changes)}; the "
            f"epoch begins anew{_held_out_anew(config)}{gone}"
        )
    states = [_of_data(state, dataset.identity.fingerprint) for state in states]
    return replace(saved, state={**saved.state, "ranks": states}, facts={**saved.facts, CHANGED: True})


def _require_same_mixes(saved: Saved, config: TrainConfig, dataset: Dataset) -> None:
    """Raise ValueError if samples of mixed tasks were erased since: the order is a formula of their number."""
    for before, now in zip(saved.facts.get(TASKS, []), tasks_of(config, dataset), strict=False):
        if list(before)[2:] != now[2:]:
            raise ValueError(
                f"samples were erased since {saved.path}, which mixes {before[2]}, and there are {now[2]}: the order "
                "of a mix is a formula of these numbers; start anew with checkpoint.resume=never, and maybe "
                "model.init=RUN"
            )


def _require_same_tasks(saved: Saved, told: str, config: TrainConfig, dataset: Dataset) -> None:
    """Raise ValueError if the tasks so far would be made of other classes, or other samples, than they were."""
    scenario = _scenario_of(config, dataset)
    if scenario.divides_by_count:
        raise ValueError(
            f"{told}; scenario={config.scenario.name} divides the samples by their number, so that the tasks would not "
            "be those that were trained: go on with the same data"
        )
    position = saved.state["trainer"]["position"]
    begun = int(position["task"]) + bool(position["begun"])
    before, now = saved.facts.get(TASKS, [])[:begun], composition_of(scenario)[:begun]
    for index, task in enumerate(before):
        if index >= len(now) or list(task) != now[index]:
            new = now[index][0] if index < len(now) else "missing"
            raise ValueError(
                f"{told}; with it task {index + 1}, which was trained as '{task[0]}', would be '{new}', or its classes "
                "would have other labels: choose the tasks so that those of before stay, such as by "
                "scenario.classes_per_task and scenario.class_order=natural, or go on with the same data"
            )


def _held_out_anew(config: TrainConfig) -> str:
    return ", and held-out samples are chosen anew" if getattr(config.scenario, "validation", 0.0) else ""


def _without_the_gone(saved: Saved, dataset: Dataset, *, forget: bool) -> tuple[list[Mapping[str, Any]], int, int]:
    """All ranks' states, maybe without exemplars whose samples are gone; how many those are, and how many all."""
    states = list(saved.state["ranks"])
    stored = np.concatenate([np.empty(0, np.int64), *map(_stored, states)])
    guises = range(int(saved.state["trainer"]["position"]["task"]) + 1)  # a domain-incremental task shows all anew
    known = np.concatenate([in_guise(dataset.train.sample_ids, guise) for guise in guises])
    gone = stored[~np.isin(stored, known)]
    if forget and len(gone):
        states = [{**state, "rehearsal": forget_in_state(state["rehearsal"], gone)} for state in states]
    return states, len(gone), len(stored)


def _of_data(state: Mapping[str, Any], fingerprint: str) -> Mapping[str, Any]:
    """A rank's state as one of this data."""
    rehearsal = state["rehearsal"]
    if rehearsal is None:
        return state
    return {**state, "rehearsal": {**rehearsal, "settings": {**rehearsal["settings"], "data": fingerprint}}}


def _stored(state: Mapping[str, Any]) -> Int64Array:
    rehearsal = state["rehearsal"]
    if rehearsal is None or "buffer" not in rehearsal:
        return np.empty(0, np.int64)
    ids: Int64Array = np.asarray(rehearsal["buffer"]["columns"]["sample_id"])
    return ids
