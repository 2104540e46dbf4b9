"""An MLflow server in a thread: made in milliseconds, stopped and started again to play a failing one."""

from __future__ import annotations

import logging
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_mlflow_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="mlflow|sqlalchemy|alembic|flask|werkzeug")
        yield


class Server:
    """MLflow's own Flask app on a free port of loopback."""

    def __init__(self, app) -> None:
        self._app = app
        self._port = 0
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self._port, self._app, threaded=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="session")
def server_app(tmp_path_factory: pytest.TempPathFactory):
    from drb.tracking.store import connect, sqlite_uri

    folder = tmp_path_factory.mktemp("server")
    connect(sqlite_uri(folder / "server.db"))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        patch.setenv(server.BACKEND_STORE_URI_ENV_VAR, sqlite_uri(folder / "server.db"))
        patch.setenv(server.ARTIFACT_ROOT_ENV_VAR, str(folder / "artifacts"))
        yield server.app


@pytest.fixture
def server(server_app) -> Iterator[Server]:
    running = Server(server_app)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them; making one takes a second."""
    from drb.tracking.store import connect, sqlite_uri

    path = tmp_path_factory.mktemp("template") / "empty.db"
    connect(sqlite_uri(path))
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> str:
    """A local store's URI, mlflow.db in the working directory, which is temporary."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow's server sets in this process
    return f"sqlite:///{tmp_path}/mlflow.db"
