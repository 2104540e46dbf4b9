"""The documentation site builds without a warning, knows every public name and setting, and fetches nothing."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys

import pytest
from programs import ROOT

import drb
from drb.program.config.schema import TrainConfig

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install 'drb-train[docs]'"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return folder


def test_public_names_and_settings_are_in_the_reference(site):
    api = (site / "reference/api.html").read_text()
    assert [name for name in drb.__all__ if not re.search(rf'id="drb[\w.]*\.{name}"', api)] == []
    configuration = (site / "generated/configuration.html").read_text()
    groups = [group for group in dataclasses.fields(TrainConfig) if dataclasses.is_dataclass(group.default_factory)]
    keys = [f"{g.name}.{f.name}" for g in groups for f in dataclasses.fields(g.default_factory) if f.name != "name"]
    assert [key for key in keys if f"<code>{key}</code>" not in configuration] == []
    commands = (site / "generated/commands.html").read_text()
    assert all(f"usage: drb {name}" in commands or f"drb {name}:" in commands for name in ("train", "forget", "plan"))
    assert "rehearsal.extend(minibatch)" in re.sub("<[^>]*>", "", (site / "generated/examples.html").read_text())


def test_no_page_fetches_anything_from_elsewhere(site):
    fetched = re.compile(r'<(?:script|img|link)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"[^>]*>')
    for page in site.rglob("*.html"):
        foreign = [tag for tag in fetched.findall(page.read_text()) if 'rel="canonical"' not in tag]
        assert foreign == [], page
