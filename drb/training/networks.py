"""The networks of a stream: the one that learns, and a copy of how it started, whose heads grow alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from drb.seeding import derive_seed
from drb.training.learner import Learner
from drb.training.method.needs import Phase
from drb.training.models import Network


class Networks:
    """Made at the first task. starting: the untrained network, on the CPU, which FWT is measured against."""

    def __init__(
        self,
        make_network: Callable[[int, int], Network],
        learn: Callable[[Network], Learner],
        adapt: Callable[[Network, int], bool],
        seed: int,
    ) -> None:
        """
        Args:
            make_network: (number of classes, task index) -> a freshly initialised network, the same on every rank.
            learn: its learner.
            adapt: changes the parameters of the network that learns for a task; returns whether it may have.
        """
        self._adapt = adapt
        self._make_network = make_network
        self._learn = learn
        self._seed = seed
        self._learner: Learner | None = None
        self._starting: Network | None = None
        # what make_network was called with: it may decide the range of the rows that a head gains later
        self._learner_from = self._starting_from = (0, 0)
        self._last_task = 0

    @property
    def learner(self) -> Learner:
        """The learner of the network.

        Raises:
            ValueError: before the first task.
        """
        if self._learner is None:
            raise ValueError("there is no network before the first task: its size depends on the task's classes")
        return self._learner

    @property
    def starting(self) -> Network:
        assert self._starting is not None
        return self._starting

    def begin_task(self, num_outputs: int, task_index: int) -> None:
        """Have at least so many outputs, and what the method adds for the task; the first time, make the networks."""
        seed = derive_seed(self._seed, "head", task_index)
        if self._learner is None:
            self._learner_from = self._starting_from = (num_outputs, task_index)
            network = self._make_network(num_outputs, task_index)
            self._starting = copy.deepcopy(network)
            self._adapt(network, task_index)
            self._learner = self._learn(network)
        else:
            self._learner.grow(num_outputs, seed, lambda network: self._adapt(network, task_index))
        self._last_task = task_index
        self.starting.grow(num_outputs, seed)

    def renew(self, task_index: int) -> None:
        """Let a fresh network of the same size learn."""
        self._learner_from = (self.learner.network.num_classes, task_index)
        network = self._make_network(*self._learner_from)
        self._adapt(network, task_index)
        self.learner.restart(network)

    # -- state

    def shape(self) -> dict[str, Any]:
        """How to make them again."""
        return {
            "num_classes": self.learner.network.num_classes,
            "learner_from": self._learner_from,
            "starting_from": self._starting_from,
            "last_task": self._last_task,
        }

    def weights(self) -> dict[str, Any]:
        """The weights of both networks, by name."""
        both = {"network": self.learner.network, "starting": self.starting}
        return {f"{kind}.{name}": value for kind, n in both.items() for name, value in n.state_dict().items()}

    def load_state_dict(
        self,
        shape: Mapping[str, Any],
        weights: Mapping[str, Any],
        learner: Mapping[str, Any],
        statistics: Mapping[str, Any],
        phase: Phase | None,
    ) -> None:
        """Make them again. learner, statistics: of `Learner`. phase: that was being trained. Collective."""
        (classes, task), (starting_classes, starting_task) = shape["learner_from"], shape["starting_from"]
        self._learner_from, self._starting_from = (classes, task), (starting_classes, starting_task)
        self._starting = self._remake(self._starting_from, shape["num_classes"])
        self._starting.load_state_dict(_below("starting.", weights))
        network = self._remake(self._learner_from, shape["num_classes"])
        self._last_task = shape["last_task"]
        for index in range(task, self._last_task + 1):
            self._adapt(network, index)
        self._learner = self._learn(network)
        if phase is not None:
            self._learner.begin_phase(phase)
        self._learner.load_state_dict(learner, _below("network.", weights), statistics)

    def _remake(self, made_from: tuple[int, int], num_classes: int) -> Network:
        network = self._make_network(*made_from)
        network.grow(num_classes, self._seed)  # the rows' values are about to be loaded
        return network


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
