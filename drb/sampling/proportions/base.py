"""What a way of sharing rehearsed exemplars among the parts of the union is asked, and what it needs to know.

Letters: W ranks, S strata, G groups, C cells of a group (a cell = one stratum on one rank).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from drb.types import Float64Array, Int64Array
from drb.variant import Variant, identity

if TYPE_CHECKING:
    from drb.sampling.feedback import Feedback

History: TypeAlias = Sequence[Sequence[float]]
"""Accuracies after each task so far: [i][j] of task j after task i, j ≤ i."""


class Proportions(Variant):
    """Turns counts into groups: parts of the union inside which every exemplar is equally likely, each with a weight.

    needs_strata: exemplars must be counted per stratum (S > 1), so that records must have a field for them.
    needs_offered: each rank's distinct offered samples must be counted.
    needs_feedback: `observe` must be told what was learnt about rehearsed samples (`Rehearsal.feedback`).
    needs_correct: of that not only the losses, but also which samples were right.
    needs_accuracies: `begin_task` must be given the accuracies of the tasks so far.
    """

    needs_strata: ClassVar[bool] = False
    needs_offered: ClassVar[bool] = False
    needs_feedback: ClassVar[bool] = False
    needs_correct: ClassVar[bool] = False
    needs_accuracies: ClassVar[bool] = False

    @property
    def needs_tasks(self) -> bool:
        """Whether `begin_task` must be told of tasks (`Rehearsal.begin_task`)."""
        return self.needs_accuracies

    @property
    def is_logged(self) -> bool:
        """Whether a ledger has all that draws follow from; it has no feedback and no tasks."""
        return not (self.needs_feedback or self.needs_tasks)

    @abc.abstractmethod
    def groups(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]:
        """The groups of the union and their weights, alike on all ranks: a pure function.

        Args:
            counts_WS: stored exemplars, int64 [W, S].
            offered_W: distinct samples that each rank was offered, int64 [W]; zeros unless needs_offered.
        Returns:
            Exemplars in the cells of each group, int64 [G, C], and weights, float64 [G].
        """

    def observe(self, feedback: Feedback) -> None:
        """Take note of what all ranks have learnt about rehearsed samples, before the draws of a round.

        It is called on every rank with the same sums, once for each round to which any rank gave feedback. What follows
        from it must be in `state_dict`.
        """

    def begin_task(self, index: int, history: History) -> None:
        """Take note of a task, counted from 0, that begins between two rounds; in a resumed run again.

        It is not for `state_dict`: what follows from the last call is restored by another one.

        history: accuracies on held-out samples after each task so far; may be empty unless needs_accuracies.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what has been observed, as arrays, numbers and strings: alike on all ranks."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, perhaps with another number of ranks."""

    def goes_on_from(self, saved: Mapping[str, Any]) -> bool:
        """Return whether a state can be loaded that proportions with this `drb.variant.identity` have saved."""
        return saved == identity(self)


class StratumWeights(Proportions):
    """Proportions whose groups are the strata, and whose weights may change from draw to draw.

    A subclass gives the weights only; `groups` is called when counts have changed, `weights` for every draw.
    """

    needs_strata = True

    def groups(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]:
        return np.ascontiguousarray(counts_WS.T), np.ones(counts_WS.shape[1])

    @abc.abstractmethod
    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        """The weight of each stratum in a draw, alike on all ranks: float64 [S], at least 0, in any unit.

        Expected shares follow the weights as far as strata hold that many exemplars.

        Args:
            strata_S: the values of the strata, int64 [S], ascending; all that there ever were.
            sizes_S: how many exemplars all ranks hold of each, int64 [S], 0 for some.
            step: of the draw, counted from 0 and on in a resumed run.
        """


def with_floor(factor_S: Float64Array, sizes_S: Int64Array, floor: float) -> Float64Array:
    """Weights of which a share `floor` is as the uniform draw has them, and the rest sizes times a factor: float64 [S].

    Without any such weight all are uniform. factor_S: float64 [S], at least 0. sizes_S: int64 [S].
    """
    uniform = sizes_S.astype(np.float64)
    weights: Float64Array = uniform * factor_S
    total = float(weights.sum())
    if not total > 0:
        return uniform
    weights *= (1 - floor) / total
    weights += uniform * (floor / uniform.sum())
    return weights
