"""MLflow's own web application on loopback, in a process that can be killed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    pid: int
    uri: str


def start_server(folder: Path) -> Server:
    """Start it with its data in `folder`, which is made."""
    folder.mkdir()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _serve(folder, writer)
        finally:
            os._exit(1)
    os.close(writer)
    port = os.read(reader, 16).decode()
    os.close(reader)
    return Server(pid, f"http://127.0.0.1:{port}")


def _serve(folder: Path, ready: int) -> None:
    from drb.tracking.store import connect, sqlite_uri

    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    uri = sqlite_uri(folder / "server.db")
    connect(uri).search_experiments()
    from mlflow import server
    from werkzeug.serving import make_server

    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = uri
    os.environ[server.ARTIFACT_ROOT_ENV_VAR] = str(folder / "artifacts")
    running = make_server("127.0.0.1", 0, server.app, threaded=True)
    os.write(ready, str(running.server_port).encode())
    running.serve_forever()
