"""A headless browser on a study's page and on MLflow's pages of it, and the dashboard that serves those."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHART = "[data-testid='experiment-view-compare-runs-card']"  # each of MLflow's charts
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
_WAIT_MS = 60_000
_SIZE = {"width": 1600, "height": 900}
_SETTINGS = {"mlflow.assistant.panelOpen_v1": "false", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true"}
_LINK = re.compile(r"(experiment|its page|in a table|in charts|side by side).*\n +(http\S+)")  # what, and where


class Pages:
    """Opens pages, waits until they show something, and takes pictures of them.

    links: those that the dashboard has printed, by the words before them.
    folder: of the study. pictures: where they go; None for nowhere.
    """

    def __init__(self, page: Any, links: Mapping[str, str], folder: Path, pictures: str | None) -> None:
        self.page = page
        self._links = links
        self._folder = folder
        self._pictures = None if pictures is None else Path(pictures).resolve()

    def open(self, link: str, picture: str | None, wait_for: str) -> Any:
        return self._open(self._links[link], picture, wait_for)

    def open_file(self, name: str, picture: str) -> Any:
        return self._open((self._folder / name).resolve().as_uri(), picture, "Made with")

    def open_run(self, name: str, tab: str, picture: str, wait_for: str) -> Any:
        """A run by its name; tab is the end of its address."""
        place = self._links["experiment"].partition("/runs?")[0]
        return self._open(f"{place}/runs/{self._run_id(name)}{tab}?workflowType=machine_learning", picture, wait_for)

    def shoot(self, name: str) -> None:
        if self._pictures is not None:
            self.page.wait_for_timeout(3000)  # charts are drawn one after the other
            self.page.screenshot(path=self._pictures / f"{name}.png")

    def _open(self, url: str, picture: str | None, wait_for: str) -> Any:
        self.page.goto("about:blank")  # a change of the part behind # alone would not load anything
        self.page.goto(url, wait_until="domcontentloaded")
        self.page.get_by_text(wait_for).first.wait_for(timeout=_WAIT_MS)
        if picture is not None:
            self.shoot(picture)
        return self.page

    def _run_id(self, name: str) -> str:
        """By MLflow's own interface."""
        base, _, place = self._links["experiment"].partition("/#/experiments/")
        body = json.dumps({"experiment_ids": [place.partition("/")[0]]}).encode()
        address = f"{base}/api/2.0/mlflow/runs/search"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            runs = json.load(answer)["runs"]
        return next(run["info"]["run_id"] for run in runs if run["info"]["run_name"] == name)


@contextlib.contextmanager
def dashboard(folder: Path, port: int, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """`drb dashboard` of the store in a folder, while it runs; the links that it prints."""
    command = [sys.executable, "-u", "-m", "drb.cli", "dashboard", f"--port={port}"]
    with subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("Ctrl-C"):
                    break
            yield dict(_LINK.findall("".join(lines)))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """A page of Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_OPTIONS))
        page = browser.new_page(viewport=_SIZE)
        page.set_default_timeout(_WAIT_MS)
        page.add_init_script(
            "".join(f"try {{ localStorage[{key!r}] = {value!r} }} catch (e) {{}}\n" for key, value in _SETTINGS.items())
        )
        yield page
        browser.close()
