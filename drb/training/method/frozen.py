"""A frozen copy of the network that learns: the teacher of methods that distil."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FrozenNetwork:
    """The network as it was at one moment.

    A part keeps it in an attribute: it is saved, restored and taken to the run's device as vectors are.

    tensors: weights and running statistics by name, as in the network's `state_dict`. Its head does not grow.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)
        self._network: nn.Module | None = None

    @classmethod
    def copy_of(cls, network: nn.Module) -> FrozenNetwork:
        """The network as it is now."""
        return cls({name: value.detach().clone() for name, value in network.state_dict().items()})

    def network_like(self, network: nn.Module) -> nn.Module:
        """The frozen network in eval mode; made at the first call, the same object ever after.

        Args:
            network: the same network as it is now, whose head may have grown. Where it has, the result's new outputs
                are those that it has now, and mean nothing.
        """
        if self._network is None:
            self._network = copy.deepcopy(network).requires_grad_(False).eval()
            for name, value in self._network.state_dict().items():
                if name in self.tensors:
                    own = value[tuple(slice(size) for size in self.tensors[name].shape)]
                    self.tensors[name] = own.copy_(self.tensors[name])  # a view: nothing is held twice
        return self._network

    def to(self, device: torch.device) -> FrozenNetwork:
        """The same network on this device."""
        return FrozenNetwork({name: value.to(device) for name, value in self.tensors.items()})
