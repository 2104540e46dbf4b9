"""The networks of a stream: the one that learns, and a copy of how it started, whose heads grow alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from drb.seeding import derive_seed
from drb.training.learner import Learner
from drb.training.models import Network


class Networks:
    """Made at the first task. starting: the untrained network, on the CPU, which FWT is measured against."""

    def __init__(
        self, make_network: Callable[[int, int], Network], learn: Callable[[Network], Learner], seed: int
    ) -> None:
        """
        Args:
            make_network: (number of classes, task index) -> a freshly initialised network, the same on every rank.
            learn: its learner.
        """
        self._make_network = make_network
        self._learn = learn
        self._seed = seed
        self._learner: Learner | None = None
        self._starting: Network | None = None
        # what make_network was called with: it may decide the range of the rows that a head gains later
        self._learner_from = self._starting_from = (0, 0)

    @property
    def learner(self) -> Learner:
        """
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

    def grow(self, num_classes: int, task_index: int) -> None:
        """Have at least so many classes; the first time, make the networks."""
        if self._learner is None:
            self._learner_from = self._starting_from = (num_classes, task_index)
            network = self._make_network(num_classes, task_index)
            self._starting = copy.deepcopy(network)
            self._learner = self._learn(network)
        seed = derive_seed(self._seed, "head", task_index)
        self.starting.grow(num_classes, seed)
        self._learner.grow(num_classes, seed)

    def renew(self, task_index: int) -> None:
        """Let a fresh network of the same size learn."""
        self._learner_from = (self.learner.network.num_classes, task_index)
        self.learner.restart(self._make_network(*self._learner_from))

    # -- state

    def shape(self) -> dict[str, Any]:
        """How to make them again."""
        return {
            "num_classes": self.learner.network.num_classes,
            "learner_from": self._learner_from,
            "starting_from": self._starting_from,
        }

    def weights(self) -> dict[str, Any]:
        """Of both networks, by name."""
        both = {"network": self.learner.network, "starting": self.starting}
        return {f"{kind}.{name}": value for kind, n in both.items() for name, value in n.state_dict().items()}

    def load_state_dict(
        self,
        shape: Mapping[str, Any],
        weights: Mapping[str, Any],
        learner: Mapping[str, Any],
        statistics: Mapping[str, Any],
    ) -> None:
        """Make them again. learner, statistics: of `Learner`. Collective."""
        (classes, task), (starting_classes, starting_task) = shape["learner_from"], shape["starting_from"]
        self._learner_from, self._starting_from = (classes, task), (starting_classes, starting_task)
        self._starting = self._remake(self._starting_from, shape["num_classes"])
        self._starting.load_state_dict(_below("starting.", weights))
        self._learner = self._learn(self._remake(self._learner_from, shape["num_classes"]))
        self._learner.load_state_dict(learner, _below("network.", weights), statistics)

    def _remake(self, made_from: tuple[int, int], num_classes: int) -> Network:
        network = self._make_network(*made_from)
        network.grow(num_classes, self._seed)  # the rows' values are about to be loaded
        return network


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
