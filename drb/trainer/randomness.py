"""A rank's random generators: augmentation's own, and the global ones, which networks with dropout may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from drb.checkpoint import random_state, restore_random_state, seed_random_state
from drb.seeding import derive_seed
from drb.world import World


class Randomness:
    """augmentation: a generator on the rank's device."""

    def __init__(self, seed: int, world: World) -> None:
        self._seed = seed
        self._world = world
        self.augmentation = torch.Generator(world.device)
        self.augmentation.manual_seed(derive_seed(seed, "augment", world.rank))

    def state_dict(self) -> dict[str, Any]:
        return {"augmentation": self.augmentation.get_state(), "random": random_state(self._world.device)}

    def load_state_dict(self, state: Mapping[str, Any], steps: int) -> None:
        """state: its `random` is None for a rank that was not there before, which has taken `steps` now."""
        if state["random"] is None:  # not what it would have drawn if it had been there from the start
            place = (self._world.rank, steps)
            self.augmentation.manual_seed(derive_seed(self._seed, "augment", *place))
            seed_random_state(derive_seed(self._seed, "global", *place))
        else:
            self.augmentation.set_state(state["augmentation"])
            restore_random_state(state["random"], self._world.device)
