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
