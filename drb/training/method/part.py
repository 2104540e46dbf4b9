"""What strategies, terms and objectives have in common: variants with options, and a state that is saved.

Annotated fields of the class are options (see `drb.variant.Variant`). What a part learns lies in attributes without
an annotation, made in `begin_task`: they are saved, except for those whose names begin with an underscore, which are
for what lasts no longer than a step. State is alike on all ranks; what differs between ranks belongs into columns of
the buffer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drb.training.method.frozen import FrozenNetwork
from drb.training.method.parameters import ParameterVector
from drb.variant import Variant, options_of

_VECTOR, _NETWORK = "parameter_vector", "frozen_network"


class Part(Variant):
    """A strategy, a term or an objective."""

    def learnt(self) -> dict[str, Any]:
        """What this part has learnt, by attribute.

        Vectors, frozen networks, tensors, numbers, strings, and lists and dictionaries of these.
        """
        options = options_of(self)
        return {name: value for name, value in vars(self).items() if name not in options and name[0] != "_"}

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs of this part; alike on all ranks."""
        return {name: _saved(value) for name, value in self.learnt().items()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from `state_dict`, with tensors on this device."""
        for name, value in state.items():
            setattr(self, name, _loaded(value, device))

    def grow(self, network: nn.Module) -> None:
        """Let vectors have entries for the outputs that the network's head has gained."""
        for value in self.learnt().values():
            if isinstance(value, ParameterVector):
                value.grow(network)


def digest(state: Any) -> bytes:
    """A fingerprint of every bit of a nested state."""
    total = hashlib.blake2b(digest_size=16)
    for piece in _pieces(state):
        total.update(piece)
    return total.digest()


def _saved(value: Any) -> Any:
    if isinstance(value, FrozenNetwork):
        return {_NETWORK: value.tensors}
    if not isinstance(value, ParameterVector):
        return value
    return {_VECTOR: value.tensors, "grows_with": value.grows_with}


def _loaded(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping) and _NETWORK in value:
        return FrozenNetwork(value[_NETWORK]).to(device)
    if isinstance(value, Mapping) and _VECTOR in value:
        tensors = {name: tensor.to(device) for name, tensor in value[_VECTOR].items()}
        return ParameterVector(tensors, value["grows_with"])
    return value


def _pieces(state: Any) -> Iterator[bytes]:
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield str(key).encode()
            yield from _pieces(value)
    elif isinstance(state, Tensor):
        yield state.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    else:
        yield repr(state).encode()
