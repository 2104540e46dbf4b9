"""Against MLflow itself: local databases, and its server in a thread."""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from programs import ROOT, free_port

from drb.tracking import Data, NullTracker, UnknownRunError, open_tracker, sync
from drb.tracking.dashboard import main as dashboard
from drb.tracking.store import connect, sqlite_uri
from drb.tracking.study import open_study_run

MAKE_RUN = """
import sys
from drb.tracking import open_tracker
with open_tracker(True, experiment="same", run_name=sys.argv[1], run_dir=".") as tracker:
    tracker.log_metrics({"loss": 1.0}, 0)
"""


@pytest.fixture(autouse=True)
def no_mlflow_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="mlflow|sqlalchemy|alembic|flask|werkzeug")
        yield


def open_at(uri, run_dir, **options):
    return open_tracker(True, experiment="digits", run_name="er", run_dir=run_dir, uri=uri, **options)


def stored(uri, run_id):
    return connect(uri).get_run(run_id)


def steps(uri, run_id, name):
    return [metric.step for metric in connect(uri).get_metric_history(run_id, name)]


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


def test_a_study_is_a_run_with_its_page_its_table_and_nested_curves(store, tmp_path):
    (tmp_path / "page.html").write_text("<html>")
    study = open_study_run(store, "digits", "Lower and upper bounds", "bounds", None)
    for _ in range(2):  # a study that goes on replaces its curves
        study = open_study_run(store, "digits", "Lower and upper bounds", "bounds", study.run_id)
        study.publish([tmp_path / "page.html"], "| a table |")
        study.remove_curves()
        study.publish_curve("strong", {1: {"scaling/efficiency": 1.0}, 2: {"scaling/efficiency": 0.8}})
        study.end("FINISHED")
    run = stored(store, study.run_id)
    assert (run.info.run_name, run.info.status) == ("Lower and upper bounds", "FINISHED")
    assert run.data.tags["mlflow.note.content"] == "| a table |"
    assert [file.path for file in connect(store).list_artifacts(study.run_id)] == ["page.html"]
    nested = f"tags.mlflow.parentRunId = '{study.run_id}'"
    (curve,) = connect(store).search_runs([run.info.experiment_id], nested)
    assert (curve.data.tags["study"], curve.info.run_name) == ("bounds", "strong")
    assert steps(store, curve.info.run_id, "scaling/efficiency") == [1, 2]
    with pytest.raises(UnknownRunError):
        open_study_run(store, "digits", "Lower and upper bounds", "bounds", "0123456789abcdef0123456789abcdef")


def test_the_dashboard_links_to_experiments_studies_and_comparisons(store, tmp_path, monkeypatch, capsys):
    assert dashboard(["--links"]) == 1
    assert "has no runs yet; drb train" in capsys.readouterr().err
    study = open_study_run(store, "digits", "Bounds", "bounds", None)
    for seed in ("0", "1"):
        with open_at(store, tmp_path) as tracker:
            tracker.log_tags({"mlflow.parentRunId": study.run_id, "strategy": "er", "seed": seed})
            tracker.log_params({"rehearsal": {"capacity": 100 + int(seed)}, "model": "mlp"})
            tracker.log_metrics({"accuracy/mean": 0.5, "accuracy/by_task": 0.5, "train/loss": 1.0}, 1)
    study.publish_curve("strong", {1: {"efficiency": 1.0}})
    from mlflow import MlflowClient

    few = functools.partialmethod(MlflowClient.search_runs, max_results=3)  # at a time, as otherwise a thousand
    monkeypatch.setattr(MlflowClient, "search_runs", few)
    assert dashboard(["--links", "--port=5001"]) == 0
    place = "http://127.0.0.1:5001/#/experiments/1"
    runs = rf"%5B%22\w{{32}}%22%2C%22{tracker.run_id}%22%5D"
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == [
        "experiment digits: 4 runs",
        f"    {place}/runs?workflowType=machine_learning",
        "  study Bounds: its page",
        f"    {place}/runs/{study.run_id}/artifacts/page.html?workflowType=machine_learning",
        "    its 2 runs in a table",
        f"    {place}/runs?viewStateShareKey=drb-{study.run_id}&workflowType=machine_learning",
        "    its 2 runs in charts",
        f"    {place}/runs?viewStateShareKey=drb-{study.run_id}&workflowType=machine_learning&compareRunsMode=CHART",
        "    its first runs side by side",
    ]
    comparison = rf"    http://127.0.0.1:5001/#/compare-runs\?runs={runs}&experiments=%5B%221%22%5D&workflowType=machine_learning"
    assert re.fullmatch(comparison, lines[-1])
    tags = connect(store).get_experiment("1").tags
    view = json.loads(tags[f"mlflow.sharedViewState.drb-{study.run_id}"])
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{study.run_id}'"
    assert view["selectedColumns"] == ["tags.`seed`", "params.`rehearsal.capacity`", "metrics.`accuracy/mean`"]


SERVER = """\
import http.server, os, signal, sys, threading
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        threading.Timer(0.3, os.kill, (os.getppid(), NUMBER) if NUMBER else (os.getpid(), signal.SIGTERM)).start()
    def log_message(self, *args): pass
open("server.pid", "w").write(str(os.getpid()))
port = int(sys.argv[-1].partition("=")[2])
server = http.server.HTTPServer(("127.0.0.1", port), Answer)
threading.Timer(20, os._exit, (1,)).start()
print("last words", file=sys.stderr, flush=True)
if NUMBER < 0:
    os._exit(1)
server.serve_forever()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, 0, -1])
def test_the_dashboard_ends_its_server_and_says_if_that_ended_by_itself(number, store, tmp_path, monkeypatch, capsys):
    """MLflow's server is played by one that ends (-1), or answers and then ends (0) or sends the dashboard a signal."""
    open_at(store, tmp_path).close("FINISHED")
    (tmp_path / "servers/mlflow").mkdir(parents=True)
    (tmp_path / "servers/mlflow/__init__.py").touch()
    (tmp_path / "servers/mlflow/__main__.py").write_text(SERVER.replace("NUMBER", str(int(number))))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "servers"))
    before = [(each, signal.signal(each, signal.SIG_IGN)) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        code = dashboard([f"--port={free_port()}"])
    finally:
        for each, handler in before:
            signal.signal(each, handler)
    printed = capsys.readouterr()
    assert ("Ctrl-C ends it" in printed.out) == (number >= 0)
    assert code == (0 if number > 0 else 1)
    said = {0: "MLflow's server ended: last words\n", -1: "MLflow's server ended at once: last words; is port "}
    assert said.get(number, "") in printed.err
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "server.pid").read_text()), 0)


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


def test_a_server_gives_the_page_of_the_run(server, tmp_path):
    with open_at(server.uri, tmp_path) as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
    experiment_id = stored(server.uri, tracker.run_id).info.experiment_id
    assert tracker.url == f"{server.uri}/#/experiments/{experiment_id}/runs/{tracker.run_id}"
    assert steps(server.uri, tracker.run_id, "loss") == [0]


def test_a_server_that_dies_costs_one_line_and_no_metric(server, tmp_path, caplog):
    (tmp_path / "plot.png").write_bytes(b"png")
    with open_at(server.uri, tmp_path) as tracker:
        tracker.log_params({"seed": 5})
        tracker.log_metrics({"loss": 1.0}, 0)
        tracker.flush()
        server.stop()
        for step in range(1, 4):
            tracker.log_metrics({"loss": 0.5, "late": step}, step)
            tracker.flush()
        tracker.log_dataset(Data("digits", "0123", "{}", "{}"))
        tracker.log_artifact(tmp_path / "plot.png")
        tracker.log_model("er-mlp", [tmp_path / "plot.png"], 3)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "(ConnectionRefusedError: [Errno 111] Connection refused)" in caplog.text
    assert f"sync('{tmp_path}', '{server.uri}')" in caplog.text
    server.start()
    assert stored(server.uri, tracker.run_id).info.status == "RUNNING"
    for _ in range(2):  # the second time changes nothing
        assert sync(tmp_path, server.uri) == tracker.run_id
    run = stored(server.uri, tracker.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "5"})
    assert steps(server.uri, tracker.run_id, "loss") == [0, 1, 2, 3]
    assert [data.dataset.name for data in run.inputs.dataset_inputs] == ["digits"]
    (model,) = run.outputs.model_outputs
    assert [file.path for file in connect(server.uri).list_logged_model_artifacts(model.model_id)] == ["plot.png"]
    assert steps(server.uri, tracker.run_id, "late") == [1, 2, 3]
    assert [file.path for file in connect(server.uri).list_artifacts(tracker.run_id)] == ["plot.png"]


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(401)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


def test_a_wrong_password_and_a_dead_proxy_are_said(tmp_path, caplog, monkeypatch):
    with HTTPServer(("127.0.0.1", 0), _Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        with open_at(f"http://127.0.0.1:{refusing.server_port}", tmp_path / "password"):
            pass
        refusing.shutdown()
    assert "the server refuses MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in caplog.text
    caplog.clear()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with open_at("http://mlflow.example.invalid:5000", tmp_path / "proxy"):
        pass
    assert "the proxy of HTTP_PROXY or HTTPS_PROXY does not answer" in caplog.text


def test_a_run_that_began_without_its_server_is_resumed_there(server, tmp_path, caplog):
    server.stop()
    with pytest.raises(KeyboardInterrupt), open_at(server.uri, tmp_path) as tracker:
        tracker.log_params({"seed": 5})
        for step in range(3):
            tracker.log_metrics({"loss": 1.0}, step)
        raise KeyboardInterrupt
    with open_at(server.uri, tmp_path, run_id=tracker.run_id) as second:  # still away
        for step in range(2, 5):
            second.log_metrics({"loss": 1.0}, step)
    assert second.run_id == tracker.run_id
    assert second.url == sqlite_uri(tmp_path / "mlflow_offline.db")
    server.start()
    with open_at(server.uri, tmp_path, run_id=tracker.run_id) as third:
        for step in range(4, 7):
            third.log_metrics({"loss": 1.0}, step)
    assert steps(server.uri, third.run_id, "loss") == list(range(7))
    run = stored(server.uri, third.run_id)
    assert (run.info.run_name, run.info.status, run.data.params) == ("er", "FINISHED", {"seed": "5"})
    assert connect(server.uri).get_experiment(run.info.experiment_id).name == "digits"


def test_nothing_to_copy_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"holds no mlflow_offline\.db"):
        sync(tmp_path, "sqlite:///x.db")
