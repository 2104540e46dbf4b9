"""A look at what a loss returns before gradients are taken of it; what is wrong is said with the class's name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drb.variant import Variant, name_of


def check_loss(value: Any, part: Variant, device: torch.device, *, needs_gradient: bool) -> Tensor:
    """Return the loss of a strategy or a term if gradients can be taken of it.

    Args:
        value: what `part.loss` returned.
        device: where the batch is.
        needs_gradient: whether it has to depend on the network; a term may be constant now and then.
    Raises:
        ValueError: it is no scalar float32 tensor on that device, or depends on no parameter.
    """
    if not isinstance(value, Tensor):
        problem = f"got {'None: is a return missing?' if value is None else type(value).__name__}"
    elif value.dim():
        problem = f"got the shape {list(value.shape)}: take batch.mean(values)"
    elif value.dtype != torch.float32:
        problem = f"got {str(value.dtype).removeprefix('torch.')}: take .float()"
    elif value.device.type != device.type:
        problem = f"got a tensor on {value.device.type} beside a batch on {device.type}: take .to(batch.device)"
    elif needs_gradient and not value.requires_grad:
        problem = "got one without a gradient: was it detached, or computed under no_grad?"
    else:
        return value
    raise ValueError(
        f"the loss of {name_of(part)} must be a scalar float32 tensor that depends on the network; {problem}"
    )
