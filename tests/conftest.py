"""Hypothesis without chance, and the longest files first."""

from __future__ import annotations

import pytest
from hypothesis import settings
from warm_python import open_session

settings.register_profile("drb", derandomize=True, deadline=None, database=None)  # nothing is written to disk
settings.load_profile("drb")

# `make test` gives each worker one file after the other: a long one that comes last would keep the others waiting
LONGEST = (
    "slurm/test_jobs",
    "launch/test_restarts",
    "reliability/test_faults",
    "end_to_end/test_demo",
    "end_to_end/test_program",
    "rehearsal/ranks/test_ends",
    "tracking/test_mlflow",
    "checkpoint/test_program",
    "rehearsal/ranks/test_failures",
    "exchange/test_rma",
    "program/test_methods",
    "test_lint",
    "checkpoint/test_resume",
    "exchange/networks/test_two_nodes",
)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not in a worker of xdist
        config.add_cleanup(open_session())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, file in enumerate(LONGEST) if f"tests/{file}.py" in item.nodeid), len(LONGEST))

    items.sort(key=place)
