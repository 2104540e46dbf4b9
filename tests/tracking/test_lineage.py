"""A lineage in MLflow: one parent, nested runs, and an alias that follows."""

from __future__ import annotations

import shutil

from drb.tracking.lineage import point_alias, track_update
from drb.tracking.store import create_run


def test_updates_are_nested_registered_and_pointed_to(tmp_path, empty_store):
    from mlflow import MlflowClient  # 3 s, which every process that collects tests would take

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "model.json").write_text("{}")
    known, runs = {}, []
    for version, promoted in ((1, True), (2, True), (3, False)):
        run = create_run(uri, "drb", f"update {version}")
        runs.append(run.run_id)
        known = track_update(
            known,
            uri=uri,
            experiment="drb",
            name="pages",
            run_id=run.run_id,
            metrics={"accuracy/new": version / 10},
            step=100 * version,
            version=version,
            promoted=promoted,
            files=tmp_path,
        )
    client = MlflowClient(uri)
    assert {client.get_run(run).data.tags["mlflow.parentRunId"] for run in runs} == {known["parent"]}
    points = client.get_metric_history(known["parent"], "accuracy/new")
    assert [(point.step, point.value) for point in points] == [(100, 0.1), (200, 0.2), (300, 0.3)]
    assert client.get_model_version_by_alias("pages", "current").run_id == runs[1]
    point_alias(known, 1)
    assert client.get_model_version_by_alias("pages", "current").run_id == runs[0]


def test_a_store_that_fails_never_fails_an_update(tmp_path, caplog):
    given = {"uri": "nowhere", "experiment": "drb", "name": "pages", "metrics": {}, "step": 1, "version": 1}
    known = track_update({}, **given, run_id="r", promoted=True, files=tmp_path)
    assert known == {}
    assert "the lineage could not be written" in caplog.text
    assert track_update({"parent": "p"}, **given, run_id=None, promoted=True, files=tmp_path) == {"parent": "p"}
