"""Links that compare the runs of a study in MLflow: side by side, and in a table with the columns that matter.

MLflow's own link to compare runs takes any runs, and its table of runs shows source, models and data only. What else a
table shows is kept with the experiment under a key, as MLflow's button 'Share' does it, and the link names that key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from drb.tracking.tracker import PARENT

VIEW = "workflowType=machine_learning"  # or MLflow opens in its mode for language models
_MOST_COMPARED = 20  # runs in a link
_MOST_PARAMS = 5
_SHARED = "mlflow.sharedViewState."  # the beginning of a tag of an experiment
_TAGS = ("strategy", "world_size", "seed")
_METRICS = ("transfer/forgetting", "time/train_seconds", "train/samples_per_second")
_NOT_COMPARED = ("name", "run_id", "seed", "strategy", "world_size", "rehearsal_settled")  # params by their first name


def side_by_side(address: str, experiment_id: str, leaves: Sequence[Any]) -> str:
    """The link to MLflow's page that compares the first of these runs."""
    chosen = [run.info.run_id for run in leaves[:_MOST_COMPARED]]
    runs, experiments = (quote(json.dumps(each, separators=(",", ":"))) for each in (chosen, [experiment_id]))
    return f"{address}/#/compare-runs?runs={runs}&experiments={experiments}&{VIEW}"  # MLflow wants the runs first


def table_of(client: Any, place: str, study: Any, leaves: Sequence[Any]) -> str:
    """The link to a table of a study's runs alone, whose columns are the study's; these are kept in the store.

    place: the address of the experiment's page.
    """
    key = f"drb-{study.info.run_id}"
    state = {
        "searchFilter": f"tags.`{PARENT}` = '{study.info.run_id}'",
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "selectedColumns": [f"{kind}.`{name}`" for kind, name in columns_of(leaves)],
        "runsHiddenMode": "SHOW_ALL",
    }
    client.set_experiment_tag(study.info.experiment_id, f"{_SHARED}{key}", json.dumps(state))
    return f"{place}/runs?viewStateShareKey={key}&{VIEW}"


def columns_of(leaves: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """What tells runs apart, then how good and how fast they were: (`tags`, `params` or `metrics`, name)."""
    for name in _TAGS:
        if len({run.data.tags.get(name) for run in leaves}) > 1:
            yield "tags", name
    names = dict.fromkeys(name for run in leaves for name in run.data.params)
    different = [name for name in names if len({run.data.params.get(name) for run in leaves}) > 1]
    for name in [name for name in different if not name.startswith(_NOT_COMPARED)][:_MOST_PARAMS]:
        yield "params", name
    metrics = dict.fromkeys(name for run in leaves for name in run.data.metrics)
    for name in metrics:
        if name.endswith("/mean") and f"{name.removesuffix('mean')}by_task" in metrics:
            yield "metrics", name
    for name in _METRICS:
        if name in metrics:
            yield "metrics", name
