"""What a model is: its options, and how a network is made from them."""

from __future__ import annotations

import abc

from drb.training.models.network import Network
from drb.variant import Variant


class Model(Variant):
    """Makes networks of one architecture."""

    @abc.abstractmethod
    def build(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> Network:
        """A network for images of `image_shape` [C, H, W] whose head starts with `num_classes` rows.

        torch's default generator is seeded when this is called, so random weights need no care; `seed` is for
        `GrowingHead`, whose rows do not depend on when they are added.

        Raises:
            ValueError: images that this architecture cannot take.
        """
