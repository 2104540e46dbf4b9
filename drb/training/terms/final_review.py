"""A review: after the task's own data, a phase on what is stored, in which old and new classes are equally rehearsed.

A phase of one epoch draws as many exemplars from the buffers of all ranks as they hold, r per rank and minibatch, and
every rank makes equally many steps.
"""

from __future__ import annotations

from drb.options import setting
from drb.training.method.needs import Needs, Phase
from drb.training.terms.term import Term


class FinalReview(Term):
    """Train on stored exemplars alone for some epochs at a task's end.

    epochs:     over the stored exemplars
    after_task: the index of the only task that is followed by a review; None: every task is
    """

    name = "final_review"
    epochs: int = setting(1, at_least=1)
    after_task: int | None = setting(None, at_least=0)

    def needs(self) -> Needs:
        return Needs(exemplars="joined")

    def next_phase(self, task: int, done: int) -> Phase | None:
        if done == 0:
            return Phase()
        if done == 1 and self.after_task in (None, task):
            return Phase(self.epochs, rows="stored")
        return None
