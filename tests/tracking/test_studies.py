"""Studies in MLflow's own store, and the dashboard that links to them."""

import functools
import json
import os
import re
import signal

import pytest
from programs import free_port
from tracking.tracked import open_at, steps, stored

from drb.tracking import UnknownRunError
from drb.tracking.dashboard import main as dashboard
from drb.tracking.store import connect
from drb.tracking.study import open_study_run


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
