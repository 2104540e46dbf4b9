"""The command `drb dashboard`: MLflow's pages of a local store, and links to what is worth opening there.

The server listens on this machine alone and has one worker: 2 processes instead of 10. It is not started with --links,
nor if the store is itself a server.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from drb.tracking.comparison import VIEW, side_by_side, table_of
from drb.tracking.store import EXPERIMENT_TAGS, connect, import_quietly, is_server, resolve_uri
from drb.tracking.tracker import PARENT, one_line

_START_S = 60.0  # how long the server may take to answer


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(prog="drb dashboard", description="Browse runs and studies in MLflow.")
    parser.add_argument("--uri", help="the store (default MLFLOW_TRACKING_URI, or mlflow.db in this folder)")
    parser.add_argument("--port", type=int, default=5000, help="of the server (default 5000)")
    parser.add_argument("--links", action="store_true", help="print the links, and start no server")
    options = parser.parse_args(arguments)
    try:
        import_quietly()
        uri = resolve_uri(options.uri)
        address = uri.rstrip("/") if is_server(uri) else f"http://127.0.0.1:{options.port}"
        lines = list(links(uri, address))
        if options.links or is_server(uri):
            print("\n".join(lines))
            return 0
        return _serve(uri, address, options.port, lines)
    except ValueError as error:
        print(f"drb: error: {error}", file=sys.stderr)
        return 1


def links(uri: str, address: str) -> Iterator[str]:
    """A line for each experiment that has runs, and for each study in it its page and two comparisons of its runs.

    Raises:
        ValueError: the store cannot be read, or has no runs.
    """
    try:
        client = connect(uri)
        found = [(each, _every(client.search_runs, [each.experiment_id])) for each in _experiments(client)]
    except Exception as error:  # MLflow's, the HTTP client's, the database's
        raise ValueError(f"{uri} cannot be read: {one_line(error)}") from error
    if not any(runs for _, runs in found):
        raise ValueError(f"{uri} has no runs yet; drb train, drb demo and drb study make some")
    for experiment, runs in found:
        if runs:
            place = f"{address}/#/experiments/{experiment.experiment_id}"
            yield f"experiment {experiment.name}: {len(runs)} runs\n    {place}/runs?{VIEW}"
            yield from _studies(client, place, runs, address)


def _experiments(client: Any) -> list[Any]:
    """All experiments; those of drb that an earlier version made without a kind get one."""
    experiments = _every(client.search_experiments)
    for experiment in experiments:
        for name, value in EXPERIMENT_TAGS.items():
            if name not in experiment.tags:
                client.set_experiment_tag(experiment.experiment_id, name, value)
    return experiments


def _every(search: Callable[..., Any], *arguments: Any) -> list[Any]:
    """All that a search of MLflow's finds; it gives at most a thousand at a time."""
    page = search(*arguments)
    found = list(page)
    while page.token:
        page = search(*arguments, page_token=page.token)
        found += page
    return found


def _studies(client: Any, place: str, runs: Sequence[Any], address: str) -> Iterator[str]:
    for study in runs:
        if study.data.tags.get("drb.kind") != "study":
            continue
        nested = [run for run in runs if run.data.tags.get(PARENT) == study.info.run_id]
        leaves = [run for run in reversed(nested) if "drb.kind" not in run.data.tags]
        page = f"{place}/runs/{study.info.run_id}/artifacts/page.html?{VIEW}"
        yield f"  study {study.info.run_name}: its page\n    {page}"
        if leaves:
            table = table_of(client, place, study, leaves)
            yield f"    its {len(leaves)} runs in a table\n    {table}"
            yield f"    its {len(leaves)} runs in charts\n    {table}&compareRunsMode=CHART"
            yield f"    its first runs side by side\n    {side_by_side(address, study.info.experiment_id, leaves)}"


def _serve(uri: str, address: str, port: int, lines: Sequence[str]) -> int:
    """Start the server, print the links when it answers, and end it on Ctrl-C or SIGTERM."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers=1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    server = None
    try:
        server = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={port}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        _wait_until_it_answers(server, address, port)
        print("\n".join(lines) + "\nCtrl-C ends it", flush=True)
        raise ValueError(f"MLflow's server ended: {_last_words(server)}")
    except KeyboardInterrupt:
        pass
    finally:
        if server is not None and server.poll() is None:
            server.terminate()
            server.communicate()
    return 0


def _last_words(server: subprocess.Popen[str]) -> str:
    """The last line that the server has printed, once it has ended."""
    _, said = server.communicate()
    return said.strip().splitlines()[-1] if said.strip() else "it said nothing"


def _wait_until_it_answers(server: subprocess.Popen[str], address: str, port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said = _last_words(server)
            raise ValueError(
                f"MLflow's server ended at once: {said}; is port {port} in use? choose another with --port"
            )
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise ValueError(f"MLflow's server does not answer at {address} after {_START_S:.0f} s")
