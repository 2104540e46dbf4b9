"""Hypothesis without chance, and the longest files first."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("drb", derandomize=True, deadline=None, database=None)  # nothing is written to disk
settings.load_profile("drb")

# `make test` gives each worker one file after the other: a long one that comes last would keep the others waiting
LONGEST = (
    "slurm/test_jobs",
    "reliability/test_faults",
    "launch/test_restarts",
    "rehearsal/ranks/test_ends",
    "checkpoint/test_program",
    "end_to_end/test_demo",
    "exchange/networks/test_two_nodes",
    "end_to_end/test_program",
    "exchange/test_rma",
    "tracking/test_mlflow",
    "rehearsal/ranks/test_equality",
    "test_lint",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, file in enumerate(LONGEST) if f"tests/{file}.py" in item.nodeid), len(LONGEST))

    items.sort(key=place)
