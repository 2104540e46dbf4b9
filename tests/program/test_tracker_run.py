"""A run goes on although its tracker's run is gone."""

from __future__ import annotations

import json
import warnings

from drb.tracking.store import connect
from drb.train import main


def test_a_run_whose_tracked_run_was_deleted_is_tracked_as_a_new_one(tmp_path, capfd, caplog):
    run_dir, uri = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    job = ["experiment=digits", "scenario.num_tasks=2", "training.epochs=1", f"hydra.run.dir={run_dir}"]
    job += ["name=mine", f"tracking.uri={uri}", "tracking.plots=false"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="mlflow|sqlalchemy|alembic")
        assert main([*job, "checkpoint.at_task_end=true"]) == 0, capfd.readouterr().err
        first = json.loads((run_dir / "tracking.json").read_text())["run_id"]
        tracked = connect(uri).get_run(first)
        assert tracked.info.run_name == "mine"
        assert {"accuracy/task_1", "accuracy/task_2"} == {name for name in tracked.data.metrics if "accuracy/t" in name}
        connect(uri).delete_run(first)
        (run_dir / "summary.json").unlink()  # as if it had been stopped
        assert main([*job, "checkpoint.at_task_end=true"]) == 0, capfd.readouterr().err
        second = json.loads((run_dir / "tracking.json").read_text())["run_id"]
        assert second != first
        assert connect(uri).get_run(second).info.status == "FINISHED"
    assert f"does not have the run {first} any more" in caplog.text + capfd.readouterr().err
