"""What FSDP2 does to a network, and why methods cannot have it."""

from __future__ import annotations

from torch import nn


def require_whole(network: nn.Module) -> None:
    """Check that every rank holds all of each parameter.

    Raises:
        ValueError: parameters are sharded over ranks.
    """
    if any(hasattr(parameter, "device_mesh") for parameter in network.parameters()):
        raise ValueError(
            "the network's parameters are sharded over ranks (FSDP2), but a method's hooks need whole gradients; give "
            "a plain network, which the trainer wraps in DDP"
        )
