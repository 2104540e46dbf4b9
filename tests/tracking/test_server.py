"""Against MLflow's server in a thread: away, dying, refusing, and back again."""

import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tracking.tracked import open_at, steps, stored

from drb.tracking import Data, sync
from drb.tracking.store import connect, sqlite_uri


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
