"""A small convolutional network for small images: two convolutions, two poolings, one hidden layer."""

from __future__ import annotations

from torch import nn

from drb.training.models.network import GrowingHead, Network


def cnn(
    image_shape: tuple[int, int, int], num_classes: int, seed: int, *, width: int = 32, hidden: int = 128
) -> Network:
    """`width` and 2 `width` channels, then `hidden` features; no normalisation layers, which drift with the stream."""
    channels, height, breadth = image_shape
    if min(height, breadth) < 4 or min(width, hidden) < 1:
        raise ValueError(
            f"cnn needs images of at least 4x4 pixels and width and hidden of at least 1, got "
            f"image_shape={list(image_shape)}, width={width}, hidden={hidden}"
        )
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
