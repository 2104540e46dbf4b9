"""A lineage in MLflow: one parent run, a nested run for each update, and a registered model with the alias `current`.

It is written after an update has ended, and its failure never fails the update: lineage.json has everything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drb.tracking.store import connect, create_run, reopen_run, resolve_uri
from drb.tracking.tracker import Point, one_line, valid_name

_log = logging.getLogger(__name__)
_PARENT = "mlflow.parentRunId"
ALIAS = "current"


def track_update(
    known: Mapping[str, Any],
    *,
    uri: str | None,
    experiment: str,
    name: str,
    run_id: str | None,
    metrics: Mapping[str, float],
    step: int,
    version: int,
    promoted: bool,
    files: Path,
) -> dict[str, Any]:
    """Put the run of an update under its lineage's parent run, and register its model if it was promoted.

    Args:
        known: what this returned for the update before; empty at first.
        run_id: the tracker's run of this update.
        step: optimisation steps of all updates so far, also of those that were not promoted.
        files: the folder with the model's files.
    Returns:
        Where all of it is, as JSON has it: `uri`, `parent`, `model`, and `versions`, the registered version by number.
        `known` if the store failed.
    """
    if run_id is None:
        return dict(known)
    try:
        place = str(known.get("uri") or resolve_uri(uri))
        client = connect(place)
        parent = reopen_run(place, known["parent"]) if "parent" in known else create_run(place, experiment, name)
        client.set_tag(run_id, _PARENT, parent.run_id)
        now_ms = int(time.time() * 1000)
        parent.write_points([Point(valid_name(key), value, now_ms, step) for key, value in metrics.items()])
        registered_as = dict(known.get("versions", {}))
        for file in ("model.safetensors", "model.json"):
            if (files / file).exists():
                client.log_artifact(run_id, str(files / file), "model")
        registered_as[str(version)] = _register(client, name, run_id)
        if promoted:
            client.set_registered_model_alias(name, ALIAS, registered_as[str(version)])
        parent.end("FINISHED")
    except Exception as error:  # whatever a store's client raises
        _log.warning("tracking: the lineage could not be written (%s); lineage.json has it", one_line(error))
        return dict(known)
    return {"uri": place, "parent": parent.run_id, "model": name, "versions": registered_as}


def _register(client: Any, name: str, run_id: str) -> str:
    """A new version of the registered model, with the files of a run; its number in the registry."""
    try:
        client.get_registered_model(name)
    except Exception:  # MLflow's, which says that there is none
        client.create_registered_model(name)
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    return str(client.create_model_version(name, source, run_id=run_id).version)


def point_alias(known: Mapping[str, Any], version: int) -> None:
    """Let the alias follow a lineage that went back to a version."""
    registered = known.get("versions", {}).get(str(version))
    if registered is None:
        return
    try:
        connect(str(known["uri"])).set_registered_model_alias(known["model"], ALIAS, registered)
    except Exception as error:  # whatever a store's client raises
        _log.warning("tracking: the alias could not be moved (%s)", one_line(error))
