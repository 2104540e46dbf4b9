"""The multi-layer perceptron that online continual learning is measured on: 784-100-100-10."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from drb.training.models.network import GrowingHead, Network


def mlp(
    image_shape: tuple[int, int, int], num_classes: int, seed: int, *, hidden: Sequence[int] = (100, 100)
) -> Network:
    """Fully connected ReLU layers of the widths `hidden`; Xavier-uniform weights, biases 0."""
    if any(width < 1 for width in hidden):
        raise ValueError(f"mlp needs hidden layers of at least 1 unit, got hidden={list(hidden)}")
    widths = [math.prod(image_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for num_inputs, num_outputs in itertools.pairwise(widths):
        linear = nn.Linear(num_inputs, num_outputs)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    bound = math.sqrt(6 / (widths[-1] + num_classes))  # Xavier for the head as it starts; rows added later keep it
    return Network(nn.Sequential(*layers), GrowingHead(widths[-1], num_classes, seed=seed, bound=bound))
