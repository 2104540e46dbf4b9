"""The hooks by which strategies and terms take part in training. They see neither ranks nor process groups.

They are called in this order:

    needs                              once, from the options
    adapt, begin_task, next_phase      at a task's begin
      prepare, select, loss            for each minibatch, on every rank, also one without rows
      observe, penalise, project       once per optimiser step, on the reduced gradient
      updated                          after the optimiser's step
    end_task                           after a task's last step
    evaluated_network, predict         in evaluation
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from drb.training.method.needs import Needs, Phase
from drb.training.method.parameters import Gradient, Weights
from drb.training.method.part import Part

if TYPE_CHECKING:
    from drb.training.method.batch import Batch
    from drb.training.method.optimizer_step import Step
    from drb.training.method.tasks import CurrentTask, FinishedTask

# a hook that only one part may have, and what a part claims by having it
_CLAIMED_BY = {
    "adjust": "adjust",
    "project": "gradient",
    "predict": "prediction",
    "evaluated_network": "network",
    "next_phase": "phases",
}


class Hooks(Part):
    """All hooks of a strategy or a term. A hook that is not overridden costs nothing.

    claims: what no other part of the method may determine, besides what follows from the hooks that are overridden:
        loss, adjust, gradient, prediction, network, phases or admission.
    """

    claims: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def overrides(cls, hook: str) -> bool:
        return getattr(cls, hook) is not getattr(Hooks, hook)

    @classmethod
    def all_claims(cls) -> frozenset[str]:
        return cls.claims | {claim for hook, claim in _CLAIMED_BY.items() if cls.overrides(hook)}

    def needs(self) -> Needs:
        """Return what this part asks of the trainer. It may depend on the options only."""
        return Needs()

    # -- a task

    def adapt(self, network: nn.Module, task: int) -> None:
        """Add parameters to the network, or change which of them are trained.

        It is called before the optimizer and DDP are made: at the begin of the task with this index, and again for
        every task so far when a run is resumed. Such changes may be made nowhere else, and may depend on the arguments
        only.
        """

    def begin_task(self, task: CurrentTask) -> None:
        """Called before a task's first minibatch, when the head has grown. A resumed run does not repeat it."""

    def next_phase(self, task: int, done: int) -> Phase | None:
        """Return the phase that follows after `done` phases of this task, or None after the last one.

        All ranks have to give the same answer.
        """
        raise NotImplementedError

    def end_task(self, task: FinishedTask) -> None:
        """Called after a task's last step, before its evaluation. The network is in eval mode.

        Running statistics have been averaged over the ranks. A resumed run does not repeat it.
        """

    # -- a minibatch

    def prepare(self, batch: Batch) -> None:
        """Look at a minibatch before anything is computed for it. Called once, on every rank, also without rows.

        The batch still has all candidates, if the method chooses among them.
        """

    def select(self, batch: Batch) -> Tensor:
        """Return which candidates to train on: int64 [`batch.num_selected`], places among the candidates.

        It is called before the forward pass. Every rank keeps the same number.
        """
        raise NotImplementedError

    def adjust(self, outputs: Any, batch: Batch) -> Any:
        """Return the outputs that the loss sees, such as logits with a prior added."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor:
        """Return what is minimised on this minibatch: a sum of `batch.mean(...)`, which are means over all ranks' rows.

        It is called on every rank, also on a rank without rows. The losses of all parts are added up.
        """
        raise NotImplementedError

    # -- an optimiser step

    def observe(self, step: Step, gradient: Gradient) -> None:
        """Look at the gradient of the loss alone, the mean over all rows of all ranks and minibatches of the step."""

    def penalise(self, weights: Weights, gradient: Gradient) -> Tensor | None:
        """Add the gradient of a penalty on the weights to `gradient`; its value is logged if it is returned."""

    def project(self, step: Step, gradient: Gradient) -> None:
        """Change the gradient with which the optimizer will step. It is then checked to be finite, and clipped."""

    def updated(self, step: Step) -> None:
        """Called after a step in which the weights have moved, but not after one that was left out."""

    # -- evaluation

    def evaluated_network(self, network: nn.Module) -> nn.Module:
        """Return the network to evaluate in place of the trained one. Called once per evaluation, in eval mode."""
        raise NotImplementedError

    def predict(self, network: nn.Module, inputs: Any) -> Any:
        """Return what is scored in place of the network's outputs for these inputs."""
        raise NotImplementedError
