"""Optimizers, the learning rate's scaling with the number of ranks, and carrying an optimizer's state over when a
head has grown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from drb.options import setting


@dataclass
class OptimizerSettings:
    """Which optimizer. A setting that the chosen optimizer does not have is ignored.

    lr:         the rate for one rank
    lr_scaling: what lr is multiplied by on W ranks: 1 (none), W (linear) or the square root of W (sqrt)
    """

    name: str = setting("sgd", one_of=("sgd", "adam", "adamw"))
    lr: float = setting(0.1, above=0)
    lr_scaling: str = setting("none", one_of=("none", "linear", "sqrt"))
    momentum: float = setting(0.0, at_least=0, below=1)
    nesterov: bool = False
    weight_decay: float = setting(0.0, at_least=0)
    beta1: float = setting(0.9, at_least=0, below=1)
    beta2: float = setting(0.999, at_least=0, below=1)
    eps: float = setting(1e-8, above=0)


def scaled_rate(settings: OptimizerSettings, world_size: int) -> float:
    """The learning rate on this many ranks."""
    return settings.lr * {"none": 1.0, "linear": float(world_size), "sqrt": math.sqrt(world_size)}[settings.lr_scaling]


def build_optimizer(settings: OptimizerSettings, network: nn.Module, world_size: int = 1) -> torch.optim.Optimizer:
    """An optimizer over every trainable parameter, at the rate scaled for this many ranks."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    lr = scaled_rate(settings, world_size)
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(
        parameters,
        lr=lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


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
