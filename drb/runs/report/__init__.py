"""Compares runs by their `summary.json`: a table, plots, and how throughput scales. `command` is `drb report`.

A summary is the parsed JSON of one run. Keys that are read here: name, strategy, metric with its direction
(higher_is_better) and bounds, the matrix of that metric (`<metric>_matrix`), task_names, acc, bwt, forgetting,
train_seconds, history (list of {"task", "seconds", "acc"} at the end of each task, optionally with "counts": {stratum:
exemplars stored, all ranks together}), rehearsal (with wait_seconds, inline_seconds, capacity_total, or null) and, if
there is one, breakdown (steps, and the seconds of each part: training, round or null). Scores are null where unknown;
times are seconds.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Summary: TypeAlias = Mapping[str, Any]
