"""A method: a strategy and any number of terms, called as one.

Only hooks that a part overrides are called, so that a plain strategy costs what a plain loop does. Two parts that claim
the same thing are refused when the method is put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from drb.training.method.batch import Batch
from drb.training.method.check_loss import check_loss
from drb.training.method.hooks import Hooks
from drb.training.method.needs import Draws, Needs, Phase, draws_of, merged
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient, ParameterVector, Weights
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.objectives.objective import Objective
from drb.training.strategies.strategy import Strategy
from drb.training.terms.term import Term
from drb.variant import name_of


class Method:
    """A strategy and its terms; every hook is that of all parts, in order.

    parts: by name, the strategy first.
    """

    def __init__(self, strategy: Strategy, terms: Sequence[Term] = ()) -> None:
        """
        Args:
            terms: in the order in which they act.
        Raises:
            ValueError: parts that cannot be combined, naming both.
        """
        self.parts: dict[str, Hooks] = {name_of(strategy): strategy}
        for term in terms:
            if name_of(term) in self.parts:
                raise ValueError(f"the term {name_of(term)} is named twice; a method has each term once")
            self.parts[name_of(term)] = term
        _refuse_claims(self.parts.items())
        needs = [(name, part.needs()) for name, part in self.parts.items()]
        self.draws: Draws = draws_of(needs)
        self.needs: Needs = merged(needs)
        hooks = ("prepare", "loss", "observe", "penalise", "project", "updated", "adapt", "begin_task", "end_task")
        self._having = {hook: [part for part in self.parts.values() if part.overrides(hook)] for hook in hooks}
        self._single = {
            hook: next((part for part in self.parts.values() if part.overrides(hook)), None)
            for hook in ("select", "adjust", "next_phase", "evaluated_network", "predict")
        }
        if self.needs.candidates and self._single["select"] is None:
            raise ValueError(f"{' + '.join(self.parts)} asks for candidates, but no part chooses among them (select)")
        self.changes_gradient = any(self._having[hook] for hook in ("observe", "penalise", "project"))
        self.penalties: dict[str, Tensor] = {}

    def check_objective(self, objective: Objective) -> None:
        """Check that this objective has what the parts ask for.

        Raises:
            ValueError: rows need classes, of which the objective knows none.
        """
        if self.needs.classes:
            objective.require_classes()

    # -- a task

    def adapt(self, network: nn.Module, task: int) -> bool:
        """Whether any part may have changed the network's parameters."""
        for part in self._having["adapt"]:
            part.adapt(network, task)
        return bool(self._having["adapt"])

    def begin_task(self, task: CurrentTask) -> None:
        for part in self._having["begin_task"]:
            part.begin_task(task)

    def end_task(self, task: FinishedTask) -> None:
        for part in self._having["end_task"]:
            part.end_task(task)

    def next_phase(self, task: int, done: int, epochs: int) -> Phase | None:
        """epochs: of a phase that says nothing else, such as the one that a task has if no part divides it."""
        part = self._single["next_phase"]
        phase = (Phase() if done == 0 else None) if part is None else part.next_phase(task, done)
        return phase if phase is None or phase.epochs is not None else replace(phase, epochs=epochs)

    # -- a minibatch

    def prepare(self, batch: Batch) -> None:
        for part in self._having["prepare"]:
            part.prepare(batch)

    def select(self, batch: Batch) -> Tensor:
        part = self._single["select"]
        assert part is not None
        return part.select(batch)

    def adjust(self, outputs: Any, batch: Batch) -> Any:
        part = self._single["adjust"]
        return outputs if part is None else part.adjust(outputs, batch)

    def loss(self, batch: Batch) -> Tensor:
        first, *others = self._having["loss"]
        total = check_loss(first.loss(batch), first, batch.device, needs_gradient=True)
        for part in others:
            total = total + check_loss(part.loss(batch), part, batch.device, needs_gradient=False)
        return total

    # -- an optimiser step

    def change_gradient(self, step: Step, weights: Weights, gradient: Gradient) -> None:
        """From the gradient of the loss to the one with which the optimizer steps."""
        for part in self._having["observe"]:
            part.observe(step, gradient)
        for name, part in self.parts.items():
            if part in self._having["penalise"] and (value := part.penalise(weights, gradient)) is not None:
                self.penalties[name] = value.detach()
        for part in self._having["project"]:
            part.project(step, gradient)

    def updated(self, step: Step) -> None:
        for part in self._having["updated"]:
            part.updated(step)

    # -- evaluation

    def evaluated_network(self, network: nn.Module) -> nn.Module:
        part = self._single["evaluated_network"]
        return network if part is None else part.evaluated_network(network)

    def predict(self, network: nn.Module, inputs: Any) -> Any:
        part = self._single["predict"]
        return network(inputs) if part is None else part.predict(network, inputs)

    # -- state

    @property
    def num_bytes(self) -> int:
        """Bytes of the vectors and tensors that the parts keep, alike on every rank; the buffer is not among them."""
        tensors: list[Tensor] = []
        for part in self.parts.values():
            for value in part.learnt().values():
                tensors += value.tensors.values() if isinstance(value, ParameterVector) else [value]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def grow(self, network: nn.Module) -> None:
        for part in self.parts.values():
            part.grow(network)

    def state_dict(self) -> dict[str, Any]:
        return {name: state for name, part in self.parts.items() if (state := part.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: a state of other parts.
        """
        if unknown := sorted(state.keys() - self.parts.keys()):
            raise ValueError(
                f"the saved run was trained with {', '.join(unknown)}, this one with {', '.join(self.parts)}; name the "
                "same strategy and terms to go on with it"
            )
        for name, part_state in state.items():
            self.parts[name].load_state_dict(part_state, device)


def _refuse_claims(parts: Iterable[tuple[str, Hooks]]) -> None:
    claimed: dict[str, str] = {}
    for name, part in parts:
        for claim in sorted(type(part).all_claims()):
            if claim in claimed:
                raise ValueError(
                    f"{claimed[claim]} and {name} cannot be combined: both determine the {_MEANING[claim]}; leave one "
                    "out"
                )
            claimed[claim] = name


_MEANING = {
    "loss": "main loss",
    "adjust": "outputs that the loss sees",
    "gradient": "direction of the step",
    "prediction": "prediction",
    "network": "network that is evaluated",
    "phases": "phases of a task",
    "admission": "exemplars that are stored",
}
