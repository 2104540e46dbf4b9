"""A rank's random generators: augmentation's own, and the global ones, which networks with dropout may use."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from drb.distributed.world import World
from drb.seeding import derive_seed


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


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of the generators of PyTorch (CPU, and the device if it is a GPU), numpy and Python."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - the global generator is what is meant
        "python": {"version": version, "words": np.array(words, np.int64), "gauss": gauss},
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def seed_random_state(seed: int) -> None:
    """For a rank that has no saved state. seed: 64 bits."""
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    random.seed(seed)


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
