"""Task-incremental: class-incremental tasks whose identity is told, in training and at test time."""

from __future__ import annotations

from drb.data.scenarios.class_incremental import ClassIncremental


class TaskIncremental(ClassIncremental):
    """Bring new classes with each task and tell the task, in training and in tests.

    As `ClassIncremental`, but minibatches carry `task`, int64 [B], so that answers may be limited to `Task.classes`.
    """

    name = "task_incremental"
    task_aware = True
