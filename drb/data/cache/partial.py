"""What the processes that fill a folder together have noted, and samples that may not be readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from drb.data.source import Source
from drb.types import Int64Array


def read_what_can_be(source: Source, rows: Int64Array) -> tuple[list[tuple[int, Any]], dict[int, str]]:
    """The first row of each run of samples and their bytes; and what is wrong with rows that cannot be read."""
    try:
        return [(int(rows[0]), np.ascontiguousarray(source.gather(rows)["image"].numpy()).data)], {}
    except ValueError as error:
        if len(rows) == 1:
            return [], {int(rows[0]): str(error)}
    found: list[tuple[int, Any]] = []
    broken: dict[int, str] = {}
    for row in rows.tolist():
        images, errors = read_what_can_be(source, np.array([row]))
        found += images
        broken |= errors
    return found, broken


def numbers_in(partial: Path, kind: str) -> list[int]:
    """All numbers that processes have noted; the last one of a killed process may be cut short."""
    found: list[int] = []
    for path in partial.glob(f"{kind}-*"):
        content = path.read_bytes()
        found += np.frombuffer(content[: len(content) // 8 * 8], np.int64).tolist()
    return found
