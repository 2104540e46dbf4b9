"""A small convolutional network for small images: two convolutions, two poolings, one hidden layer."""

from __future__ import annotations

from torch import nn

from drb.options import setting
from drb.training.models.base import Model, require_images
from drb.training.models.network import GrowingHead, Network


class Cnn(Model):
    """Two convolutions of `width` and 2 `width` channels, then `hidden` features, without normalisation layers.

    Normalisation layers would drift with the stream.
    """

    name = "cnn"
    width: int = setting(32, at_least=1)
    hidden: int = setting(128, at_least=1)

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        channels, height, breadth = require_images(self.name, image_shape)
        width, hidden = self.width, self.hidden
        if min(height, breadth) < 4:
            raise ValueError(f"cnn needs images of at least 4x4 pixels, got image_shape={list(image_shape)}")
        body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (breadth // 4), hidden),
            nn.ReLU(),
        )
        return Network(body, GrowingHead(hidden, num_classes, seed=seed))
