"""How long a run trains until it is as good as a study's target asks: the measure of MLPerf Training.

A run of a stream of tasks is as good once it is in its last task and its mean score over all tasks has reached the
target. It is evaluated at the end and, with training.eval_every, in the midst of tasks; no evaluation is on the clock.
MLPerf (arXiv 1910.01500) drops the fastest and the slowest run of a point; here all runs count.
"""

from __future__ import annotations

from drb.runs.report import Summary
from drb.runs.report.metric import higher_is_better


def seconds_to(target: float | None, summary: Summary) -> float | None:
    """Seconds of training until the target was first reached; None if there is none, or the run did not reach it."""
    if target is None:
        return None
    *earlier, last = summary["history"]
    begin = earlier[-1]["seconds"] if earlier else 0.0
    seconds, values = summary.get("during_seconds", ()), (value for _, value in summary.get("during", ()))
    scores = [(at, value) for at, value in zip(seconds, values, strict=True) if at > begin]
    sign = 1 if higher_is_better(summary) else -1
    for at, score in [*scores, (last["seconds"], last["acc"])]:
        if score is not None and sign * score >= sign * target:
            return float(at)
    return None
