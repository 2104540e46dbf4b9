"""A study of made-up runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.made import STUDY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "made.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a page's time goes into its pixels."""
    monkeypatch.setattr("drb.runs.report.plots._DPI", 40)
