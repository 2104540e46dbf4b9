"""Whether a stream can be trained on by so many ranks, looked at before the first step: all labels are known then."""

from __future__ import annotations

from itertools import islice

from drb.data.scenarios.task import Scenario

_TASKS_AT_MOST = 1000  # of a stream without end


def check_stream(scenario: Scenario, world_size: int) -> None:
    """Go through the tasks of a stream, without reading any images.

    Raises:
        ValueError: naming the first task that has fewer training samples than there are ranks, or nothing to test.
    """
    for task in islice(scenario, _TASKS_AT_MOST):
        name = f"task {task.index} ({task.name})"
        if len(task.train) < world_size:
            raise ValueError(
                f"{name} has {len(task.train)} training samples for {world_size} ranks, each of which needs at least "
                "one; use fewer ranks, or tasks with more samples"
            )
        if not len(task.test):
            raise ValueError(f"{name} has no test images; add some, or leave its classes out")
