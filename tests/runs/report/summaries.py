"""Summaries as runs write them, with made-up but plausible numbers."""

from __future__ import annotations

from typing import Any

from drb.training.evaluation.metrics import ScoreMatrix


def summary(
    name: str, strategy: str, matrix: list[list[float | None]], seconds: list[float], **changes: Any
) -> dict[str, Any]:
    metrics = ScoreMatrix()
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value is not None:
                metrics.add(i, j, value)
    accuracies = [metrics.mean_after(i) for i in range(len(matrix))]
    tasks = len(matrix)
    values: dict[str, Any] = {
        "name": name,
        "strategy": strategy,
        "accuracy_matrix": matrix,
        "task_names": [f"{2 * i}, {2 * i + 1}" for i in range(tasks)],
        "acc": accuracies[-1],
        "bwt": metrics.bwt(),
        "fwt": None,
        "forgetting": metrics.forgetting(),
        "train_seconds": seconds[-1],
        "history": [
            {"task": i, "seconds": s, "acc": a} for i, (s, a) in enumerate(zip(seconds, accuracies, strict=True), 1)
        ],
        "rehearsal": None,
    }
    return values | changes


def three_runs() -> list[dict[str, Any]]:
    lower = [[0.99 if i == j else (0.01 if j < i else 0.0) for j in range(5)] for i in range(5)]
    kept = [[0.99 - 0.045 * (i - j) if j <= i else 0.0 for j in range(5)] for i in range(5)]
    upper = [[0.985 - 0.004 * i if j <= i else 0.0 for j in range(5)] for i in range(5)]
    rehearsal = {"wait_seconds": 0.0213, "inline_seconds": 0.01, "capacity_total": 200, "stored_total": 200}
    runs = [
        summary("incremental", "finetune", lower, [1.1, 2.2, 3.3, 4.4, 5.5]),
        summary("rehearsal", "er", kept, [1.2, 2.5, 3.8, 5.1, 6.4], rehearsal=rehearsal),
        summary("from scratch", "from_scratch", upper, [1.1, 3.3, 6.6, 11.0, 16.5]),
    ]
    for task, entry in enumerate(runs[1]["history"]):
        entry["counts"] = {str(label): 200 // (2 * task + 2) for label in range(2 * task + 2)}
    return runs


def errors() -> dict[str, Any]:
    """A run of a metric that has no upper bound and of which less is better."""
    matrix = [[0.25, None], [1.5, 0.125]]
    run = summary("regression", "er", [[0.25, None], [0.5, 0.125]], [1.0, 2.0])
    del run["accuracy_matrix"]
    changes = {"metric": "error", "higher_is_better": False, "bounds": None, "error_matrix": matrix}
    history = [{"task": 1, "seconds": 1.0, "acc": 0.25}, {"task": 2, "seconds": 2.0, "acc": 0.8125}]
    return run | changes | {"acc": 0.8125, "bwt": -1.25, "forgetting": 1.25, "history": history}
