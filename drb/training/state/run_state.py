"""The state of a training run: all that its rest depends on, saved, loaded, and divided anew among other ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drb.checkpoint.finding import CONSTANT
from drb.data.datasets import Source
from drb.distributed.agreement import gather_json
from drb.training.components import Components
from drb.training.method.part import digest
from drb.training.state.resume import deal_exemplars, describe_change, own_part


class RunState:
    """The parts of a trainer that have a state. One per trainer."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._saved_ranks: Sequence[Mapping[str, Any]] = ()  # of a run with another number of ranks

    def state_dict(self, *, lazy: bool = False) -> dict[str, Any]:
        """See `Trainer.state_dict`."""
        components, learner = self._components, self._components.networks.learner
        learnt = {
            "method": components.method.state_dict(),
            "objective": components.objective.state_dict(),
            "schedule": components.schedule.state_dict(),
        }
        self._require_equal(learnt)
        return {
            "trainer": {
                **components.progress.state_dict(),
                "networks": components.networks.shape(),
                "scores": components.scores.state_dict(),
                "finite": components.finite.state_dict(),
            },
            "model": {**components.networks.weights(), **learnt},
            "optimizer": learner.state_dict(),
            "rank": {
                "statistics": learner.statistics(),
                **components.progress.own_state(),
                **components.randomness.state_dict(),
                "rehearsal": None if components.rehearsal is None else components.rehearsal.state_dict(lazy=lazy),
            },
            CONSTANT: ["model|starting."],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Trainer.load_state_dict`. Collective."""
        components, shared, model = self._components, state["trainer"], state["model"]
        components.progress.load_state_dict(shared)
        components.scores.load_state_dict(shared["scores"])
        components.finite.load_state_dict(shared["finite"])
        position, training = components.progress.position, components.training
        if "ranks" in state:
            self._saved_ranks = state["ranks"]
            before = len(self._saved_ranks)
            position.change_ranks(before, training.rows_per_rank(before))
            own = own_part(self._saved_ranks, components.world.rank)
        else:
            own = state["rank"]
        phase = None
        if position.begun and position.phase is not None:
            phase = components.method.next_phase(position.task, position.phase, training.epochs)
        components.networks.load_state_dict(shared["networks"], model, state["optimizer"], own["statistics"], phase)
        components.method.load_state_dict(model["method"], components.world.device)
        components.objective.load_state_dict(model["objective"], components.world.device)
        components.schedule.load_state_dict(model["schedule"], components.world.device)
        components.progress.load_own_state(own)
        if components.rehearsal is not None and "rehearsal" in own:
            components.rehearsal.load_state_dict(own["rehearsal"])
        components.randomness.load_state_dict(own, components.progress.steps)  # last: building networks may draw

    def settle_ranks(self, tasks: Sequence[Source], say: Callable[[str], None]) -> None:
        """After a resume with another number of ranks, once the tasks so far are known: buffers to their owners."""
        states, self._saved_ranks = self._saved_ranks, ()
        if not states:
            return
        components, world = self._components, self._components.world
        exemplars = deal_exemplars(components.rehearsal, states, tasks, world, components.seed)
        say(describe_change(len(states), world.world_size, components.training, components.optimizer, exemplars))

    def _require_equal(self, learnt: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare what the ranks have learnt. Collective.

        Raises:
            ValueError: a strategy, a term, the objective or the schedule has learnt something else on another rank.
                Raised on all ranks.
        """
        world_size = self._components.world.world_size
        if world_size == 1 or not any(learnt.values()):
            return
        parts = {**learnt["method"], "the objective": learnt["objective"], "the schedule": learnt["schedule"]}
        own = {name: digest(state).hex() for name, state in parts.items()}
        of_ranks = gather_json(own)
        for name, value in of_ranks[0].items():
            if others := [rank for rank, digests in enumerate(of_ranks) if digests.get(name) != value]:
                raise ValueError(
                    f"the state of {name} differs between rank 0 and rank {', '.join(map(str, others))}; what a method "
                    "keeps must come from sums over all ranks, or lie in the buffer"
                )
