"""The state of an optimizer by the names of parameters: saved, loaded, and carried over when a head has grown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def carry_state(
    old: torch.optim.Optimizer,
    old_parameters: dict[str, Tensor],
    new: torch.optim.Optimizer,
    new_parameters: dict[str, nn.Parameter],
) -> None:
    """Give `new` the state of `old`, parameter by parameter of the same name.

    Where a parameter has gained rows (a head that grew), its moments keep the old rows and are zero in the new ones;
    a state that is one number (Adam's step) is kept as it is.
    """
    for name, parameter in new_parameters.items():
        before = old_parameters.get(name)
        if before is None or before not in old.state:
            continue
        new.state[parameter] = {
            key: _grown(value, before, parameter) if isinstance(value, Tensor) else value
            for key, value in old.state[before].items()
        }


def named_state(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, dict[str, Any]]:
    """The optimizer's state (momenta …) by the names of the parameters."""
    parameters = network.named_parameters()
    return {name: dict(optimizer.state[parameter]) for name, parameter in parameters if parameter in optimizer.state}


def load_named_state(
    state: Mapping[str, Mapping[str, Any]], optimizer: torch.optim.Optimizer, network: nn.Module
) -> None:
    """Take over what `named_state` gave, on each parameter's device and in its memory layout."""
    for name, parameter in network.named_parameters():
        if name in state:
            optimizer.state[parameter] = {key: _placed(value, parameter) for key, value in state[name].items()}


def _placed(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value  # one number, such as Adam's step, which optimizers keep on the CPU
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _grown(state: Tensor, before: Tensor, parameter: Tensor) -> Tensor:
    if state.shape != before.shape or before.shape == parameter.shape:
        return state
    grown = torch.zeros_like(parameter)
    grown[: len(state)] = state
    return grown
