"""Refresh stored outputs: at a task's end the outputs that DER's exemplars are stored with become those of now.

They are those of the network that is evaluated, so with the term `ema` the averaged weights'. It costs one forward pass
over the stored exemplars at the end of each task. DER's authors refresh while training instead (X-DER, Boschini et al.
2022, arXiv 2201.00766, for outputs of classes that came later).
"""

from __future__ import annotations

from drb.training.method.needs import Needs
from drb.training.method.tasks import FinishedTask
from drb.training.terms.term import Term

FIELD = "logits"


class LogitRefresh(Term):
    """Overwrite the stored outputs by those of the evaluated network at the end of each task."""

    name = "logit_refresh"

    def needs(self) -> Needs:
        return Needs(exemplars="joined", rewrites=(FIELD,))

    def end_task(self, task: FinishedTask) -> None:
        with task.edit() as edit:
            for inputs, fields in task.stored_in(edit):
                outputs = task.objective.flatten(task.evaluated_outputs(inputs))
                edit.rewrite(FIELD, outputs, fields["sample_id"].cpu())
