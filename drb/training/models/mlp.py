"""The multi-layer perceptron that online continual learning is measured on: 784-100-100-10."""

from __future__ import annotations

import itertools
import math

from torch import nn

from drb.options import setting
from drb.training.models.base import Model
from drb.training.models.network import GrowingHead, Network


class Mlp(Model):
    """Fully connected ReLU layers of the widths `hidden`, with Xavier-uniform weights and biases of 0."""

    name = "mlp"
    hidden: list[int] = setting([100, 100], at_least=1)

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        widths = [math.prod(image_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for num_inputs, num_outputs in itertools.pairwise(widths):
            linear = nn.Linear(num_inputs, num_outputs)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
        bound = math.sqrt(6 / (widths[-1] + num_classes))  # Xavier for the head as it starts; rows added later keep it
        return Network(nn.Sequential(*layers), GrowingHead(widths[-1], num_classes, seed=seed, bound=bound))
