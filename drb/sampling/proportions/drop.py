"""Replay the tasks whose accuracy fell: the base of replay scheduling's heuristics (Klasson 2023, arXiv 2209.08660).

Strata are tasks: rehearsal.stratum=task. At each task's begin the accuracies so far, on samples held out of training,
choose the tasks that are rehearsed; these get equal shares until the next task. If none fell, or before anything was
evaluated, all tasks do.

Letters: T tasks so far, S strata.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np

from drb.options import setting
from drb.sampling.proportions.base import History, StratumWeights
from drb.types import BoolArray, Float64Array, Int64Array


class Drop(StratumWeights):
    """Equal shares of the tasks that `fell`.

    threshold: how far an accuracy may fall; the paper has 0.97 for Fashion-MNIST and 0.96 for MNIST
    """

    needs_accuracies: ClassVar[bool] = True
    threshold: float = setting(0.97, above=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._chosen: Int64Array = np.empty(0, np.int64)  # tasks; none: all

    @abc.abstractmethod
    def fell(self, history: History) -> BoolArray:
        """Return which of the tasks so far are to be rehearsed: bool [T]. history: as for `begin_task`, not empty."""

    def begin_task(self, index: int, history: History) -> None:
        self._chosen = np.flatnonzero(self.fell(history)) if history else np.empty(0, np.int64)

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        chosen = np.isin(strata_S, self._chosen) if len(self._chosen) else np.ones(len(strata_S), np.bool_)
        if not (chosen & (sizes_S > 0)).any():
            raise ValueError(
                f"the accuracies of tasks {self._chosen.tolist()} fell, and none of the stored exemplars is of them: "
                "exemplars must be counted by task (stratum=task), and the buffer must keep some of each"
            )
        return chosen.astype(np.float64)
