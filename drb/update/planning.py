"""What an update would do, found out before anything is written; every rank has the same plan, or the same error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drb.data.cache import open_prefilled
from drb.data.datasets import Dataset
from drb.data.scenarios.base_plus_new import BasePlusNew
from drb.program.config import compose_config
from drb.program.config.keys import RUN_DIR
from drb.program.run import dataset_of
from drb.runs.lineage.files import fingerprint_of, require_run, require_unchanged
from drb.runs.lineage.gates import Gates, require_known
from drb.runs.lineage.record import Lineage, read_lineage
from drb.update.job import Update
from drb.update.request import Request

_DECIDED = {"dataset", "dataset.files", "dataset.changed", "checkpoint.enabled", "checkpoint.resume", "run_id"}
_DECIDED |= {"scenario.new_classes", "scenario.rehearsed", "rehearsal.prefilled", RUN_DIR}
_SCENARIOS = {"scenario=arrivals", f"scenario={BasePlusNew.name}"}


def plan(request: Request) -> Update:
    """The update that a request asks for. Nothing is written.

    Raises:
        ValueError: a state, data, evaluation set or gate that cannot be used, data that was learnt already, or another
            update that was begun and not finished.
    """
    assert request.data is not None
    folder, data = request.state.expanduser().absolute(), request.data.expanduser().absolute()
    lineage = read_lineage(folder) or Lineage(folder)
    _begin_from(lineage, request.base)
    if decided := sorted(_DECIDED & {each.partition("=")[0] for each in request.settings}):
        raise ValueError(f"drb update chooses {', '.join(decided)} itself; leave it out")
    if others := [each for each in request.settings if each.startswith("scenario=") and each not in _SCENARIOS]:
        raise ValueError(f"drb update takes {' or '.join(sorted(_SCENARIOS))}, got {others[-1]}")
    if "experiment=base_plus_new" in request.settings:
        raise ValueError(
            "experiment=base_plus_new is for data of its own; write scenario=base_plus_new strategy=finetune"
        )
    lineage.settings = _merged(lineage.settings, request.settings)
    lineage.gates = _with(lineage.gates, request.gates)
    named = {**request.usual_sets, **request.eval_sets}
    require_known(lineage.gates, ["base", "new", *lineage.eval_sets, *named])
    anew = {
        name: path for name, path in named.items() if name in request.eval_sets or path != lineage.eval_sets.get(name)
    }
    lineage.eval_sets |= named
    lineage.eval_fingerprints |= {name: fingerprint_of(Path(path)) for name, path in anew.items()}
    update = Update(lineage, data, fingerprint_of(data), request.export)
    _require_new(update)
    require_unchanged(lineage)
    if lineage.current is not None:
        require_run(lineage, lineage.current)
    config, _ = compose_config(update.arguments())
    dataset = dataset_of(config, None)
    for name in lineage.eval_sets:
        _require_same_kind(name, update.eval_set(name, config, dataset), dataset)
    _require_nothing_unfinished(update)
    return update


def _begin_from(lineage: Lineage, base: Path | None) -> None:
    """Let a lineage without versions begin from a prefilled folder.

    Raises:
        ValueError: it is not filled, or the lineage began otherwise.
    """
    folder = "" if base is None else str(base.expanduser().absolute())
    if lineage.versions:
        if folder not in ("", lineage.base):
            began = f"from {lineage.base}" if lineage.base else "without a base"
            raise ValueError(
                f"{lineage.folder} began {began}, got --base {folder}; leave it out, or begin another lineage"
            )
    elif folder:
        open_prefilled(Path(folder))
        lineage.base, lineage.base_fingerprint = folder, fingerprint_of(Path(folder))


def _require_new(update: Update) -> None:
    """Raise ValueError if the line of the current version has learnt the data."""
    for version in update.lineage.line_of(update.lineage.current):
        if version.fingerprint == update.fingerprint:
            raise ValueError(
                f"version {version.number} has learnt {update.data} already: it has the same content as {version.data}"
            )


def _require_same_kind(name: str, found: Dataset, dataset: Dataset) -> None:
    """Raise ValueError if an evaluation set has other samples than the data, so that the network cannot take them."""
    if (found.image_shape, found.dtype) != (dataset.image_shape, dataset.dtype):
        raise ValueError(
            f"the evaluation set {name} must have samples as the data has, {_kind(dataset)}, and it has {_kind(found)}"
        )


def _kind(dataset: Dataset) -> str:
    return f"{str(dataset.dtype).removeprefix('torch.')} {list(dataset.image_shape)}"


def _require_nothing_unfinished(update: Update) -> None:
    """Raise ValueError if another update was begun and has saved a checkpoint."""
    begun = update.begun()
    if begun is not None and begun != update.description() and update.has_saved():
        raise ValueError(
            f"an update with {begun['data']} was begun and not finished; finish it with the same command, or delete "
            f"{update.run_dir}"
        )


def _merged(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Settings as key=value, of which the last one counts."""
    by_key = {setting.partition("=")[0]: setting for setting in [*before, *now]}
    return list(by_key.values())


def _with(before: Gates, now: Gates) -> dict[str, dict[str, Any]]:
    """Gates of which each kind stays until it is given again."""
    return {name: {**before.get(name, {}), **now.get(name, {})} for name in {**before, **now}}
