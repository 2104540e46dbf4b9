"""Against MLflow itself: local databases, and its server in a thread."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from programs import ROOT
from tracking.tracked import open_at, steps, stored

from drb.tracking import Data, NullTracker, UnknownRunError, open_tracker, sync
from drb.tracking.store import connect, sqlite_uri

MAKE_RUN = """
import sys
from drb.tracking import open_tracker
with open_tracker(True, experiment="same", run_name=sys.argv[1], run_dir=".") as tracker:
    tracker.log_metrics({"loss": 1.0}, 0)
"""


def test_a_run_is_stored_with_everything_and_its_status(store, tmp_path):
    (tmp_path / "plot.png").write_bytes(b"png")
    with open_at(store, tmp_path) as tracker:
        tracker.log_params({"seed": 0, "buffer": {"capacity": 10}} | {f"p{i}": i for i in range(150)})
        for step in range(3):
            tracker.log_metrics({"loss": 1.0 - step / 10, "fill[3]": step}, step)
        tracker.log_artifact(tmp_path / "plot.png", "plots")
        tracker.log_tags({"strategy": "er", "study": "sizes"})
        tracker.log_tags({"study": "bounds"})
        tracker.log_dataset(Data("digits", "0123", "{}", '{"train": 3}'))
        for _ in range(2):  # the second time, as a run that goes on, changes nothing
            tracker.log_model("er-mlp", [tmp_path / "plot.png"], 2)
    run = stored(store, tracker.run_id)
    assert tracker.url == store
    assert (run.info.run_name, run.info.status) == ("er", "FINISHED")
    assert (run.data.params["buffer.capacity"], len(run.data.params)) == ("10", 152)
    assert run.data.metrics == {"loss": 0.8, "fill_3_": 2.0}
    assert steps(store, tracker.run_id, "loss") == [0, 1, 2]
    assert list((tmp_path / "mlruns").rglob("plots/plot.png"))
    assert {"strategy": "er", "study": "bounds"}.items() <= run.data.tags.items()
    assert [(data.dataset.name, data.dataset.digest) for data in run.inputs.dataset_inputs] == [("digits", "0123")]
    (model,) = run.outputs.model_outputs
    assert connect(store).get_logged_model(model.model_id).name == "er-mlp"
    assert len(list((tmp_path / "mlruns").rglob("plot.png"))) == 2
    # or MLflow's pages show the runs as evaluations of a language model
    experiment = connect(store).get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_node_is_measured_while_a_run_lasts(store, tmp_path):
    with open_at(store, tmp_path, system_seconds=0.1) as tracker:
        deadline = time.monotonic() + 30
        while "system/cpu_utilization_percentage" not in stored(store, tracker.run_id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_failed_run_is_failed_and_a_resumed_one_repeats_no_step(store, tmp_path, caplog):
    with pytest.raises(RuntimeError), open_at(store, tmp_path) as tracker:
        tracker.log_params({"epochs": 1})
        for step in range(6):
            tracker.log_metrics({"loss": 1.0}, step)
        raise RuntimeError
    assert stored(store, tracker.run_id).info.status == "FAILED"
    with open_at(store, tmp_path, run_id=tracker.run_id) as resumed:
        assert stored(store, tracker.run_id).info.status == "RUNNING"
        resumed.log_params({"epochs": 2, "resumed": True})
        for step in range(3, 9):  # from an older checkpoint
            resumed.log_metrics({"loss": 1.0, "task/acc": 0.5}, step)
    run = stored(store, tracker.run_id)
    assert resumed.run_id == tracker.run_id
    assert run.info.status == "FINISHED"
    assert steps(store, tracker.run_id, "loss") == list(range(9))
    assert steps(store, tracker.run_id, "task/acc") == list(range(3, 9))
    assert run.data.params == {"epochs": "1", "resumed": "True"}
    assert caplog.messages == ["tracking: MLflow keeps the first value of params that have changed: epochs"]


def test_the_default_store_is_mlflow_db_in_the_working_directory(store, tmp_path):
    with open_at(None, tmp_path / "run") as tracker:
        pass
    assert tracker.url == store
    assert (tmp_path / "mlflow.db").exists()


def test_the_environment_names_the_store_unless_one_is_given(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/site.db")
    with open_at(None, tmp_path) as tracker:
        pass
    assert tracker.url == f"sqlite:///{tmp_path}/site.db"


def test_an_older_database_is_upgraded(store, tmp_path, caplog, monkeypatch):
    import mlflow.store.db.utils as db
    from alembic import command

    connect(store)
    older = shutil.copy(tmp_path / "mlflow.db", tmp_path / "older.db")  # MLflow remembers what it checked, by name
    config = db._get_alembic_config(sqlite_uri(older))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        command.downgrade(config, "-1")
    # MLflow itself upgrades a database that lacks a table; make it believe that only columns have changed
    monkeypatch.setattr(db, "_all_tables_exist", lambda engine: True)
    with open_at(sqlite_uri(older), tmp_path) as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
    assert steps(sqlite_uri(older), tracker.run_id, "loss") == [0]
    assert "to the schema of the installed MLflow" in caplog.text


def test_processes_may_make_the_same_fresh_database_at_once(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-W", "error", "-c", MAKE_RUN]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [
        subprocess.Popen([*command, f"run {index}"], cwd=tmp_path, env=environment, **pipes) for index in range(2)
    ]
    assert [process.communicate(timeout=100)[0] for process in processes] == ["", ""]  # and no noise
    client = connect(sqlite_uri(tmp_path / "mlflow.db"))
    experiment = client.get_experiment_by_name("same")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"run 0", "run 1"}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_disabled_tracking_needs_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert isinstance(open_tracker(False, experiment="e", run_name="r", run_dir=tmp_path), NullTracker)
    assert list(tmp_path.iterdir()) == []


def test_missing_mlflow_is_said_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"pip install 'drb-train\[train\]', or train with tracking=none"):
        open_at(None, tmp_path)


@pytest.mark.parametrize("name", ["mlflow", "alembic"])
def test_a_file_that_hides_a_module_is_named(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("")
    program = "import drb.tracking.opening as o; o.open_tracker(True, experiment='e', run_name='r', run_dir='.')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert f"{name} is taken from {tmp_path / name}.py; rename that if it is yours" in ended.stderr.splitlines()[-1]


def test_a_variable_that_names_no_store_is_blamed_rather_than_the_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ValueError, match=r"^MLFLOW_TRACKING_URI must be sqlite:///FILE.* got './mlruns'; set tracking"):
        open_at(None, tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/all.db")
    with pytest.raises(ValueError, match=r"which MLFLOW_TRACKING_URI names: "):
        open_at(None, tmp_path)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns"])
def test_a_uri_that_is_no_store_is_refused(uri, tmp_path):
    with pytest.raises(ValueError, match=f"tracking.uri must be sqlite:///FILE, .* got '{uri}'"):
        open_at(uri, tmp_path)


def test_an_unusable_database_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is not a database" * 100)
    with pytest.raises(ValueError, match=r"cannot track in sqlite:///.*file is not a database"):
        open_at(sqlite_uri(tmp_path / "mlflow.db"), tmp_path)


def test_an_unknown_run_is_refused(store, server, tmp_path):
    for uri in (store, server.uri):
        with pytest.raises(ValueError, match="0123"):
            open_at(uri, tmp_path, run_id="0123456789abcdef0123456789abcdef")


def test_a_run_that_was_deleted_is_told_apart_from_a_store_that_fails(store, server, tmp_path):
    """The program then goes on with a new run: see tests/program/test_tracker_run.py."""
    for uri in (store, server.uri):
        with open_at(uri, tmp_path) as tracker:
            tracker.log_metrics({"loss": 1.0}, 0)
        connect(uri).delete_run(tracker.run_id)
        with pytest.raises(UnknownRunError, match=f"does not have the run {tracker.run_id} any more"):
            open_at(uri, tmp_path, run_id=tracker.run_id)


def test_a_database_that_another_process_keeps_locked_costs_one_line_and_no_metric(
    store, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("drb.tracking.store._LOCKED_S", 0.3)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with open_at(store, tmp_path) as tracker:
            tracker.log_metrics({"loss": 1.0}, 0)
        other.execute("ROLLBACK")
    assert len(caplog.records) == 1
    assert "locked" in caplog.text
    run_id = sync(tmp_path, store)
    assert steps(store, run_id, "loss") == [0]
