"""What a model is: its options, and how a network is made from them."""

from __future__ import annotations

import abc

from drb.training.models.network import Network
from drb.variant import Variant


class Model(Variant):
    """Makes networks of one architecture."""

    @abc.abstractmethod
    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        """A network for samples of `image_shape` ([C, H, W] of images) whose head starts with `num_classes` rows.

        torch's default generator is seeded when this is called, so random weights need no care; `seed` is for
        `GrowingHead`, whose rows do not depend on when they are added.

        Raises:
            ValueError: samples that this architecture cannot take.
        """


def require_images(model: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model is to be built for.

    Raises:
        ValueError: the samples are no images.
    """
    if len(shape) != 3:
        raise ValueError(f"{model} takes images [C, H, W], got samples of the shape {list(shape)}; use model=mlp")
    channels, height, width = shape
    return channels, height, width
