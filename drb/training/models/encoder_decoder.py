"""A small convolutional encoder and decoder: several images from one, such as amplitude and phase from a diffraction
image (after PtychoNN, Cherukara et al. 2020, arXiv 2004.08247: one encoder, a decoder for each output).
"""

from __future__ import annotations

from torch import Tensor, nn

from drb.options import setting
from drb.training.models.base import Model
from drb.training.models.network import Head, Network


class EncoderDecoder(Model):
    """Two convolutions with strides, a hidden layer, and a decoder for each output image, of one channel each.

    outputs: how many images of the input's size there are; the network gives a tuple of them
    width:   channels of the first convolution; the second has twice as many
    hidden:  features between encoder and decoders
    """

    name = "encoder_decoder"
    outputs: int = setting(2, at_least=1)
    width: int = setting(16, at_least=1)
    hidden: int = setting(64, at_least=1)

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        if len(image_shape) != 3 or image_shape[1] % 4 or image_shape[2] % 4:
            raise ValueError(
                "encoder_decoder needs images [C, H, W] whose height and width are multiples of 4, got samples of the "
                f"shape {list(image_shape)}"
            )
        channels, height, breadth = image_shape
        wide, small = 2 * self.width, (height // 4, breadth // 4)
        encoder = nn.Sequential(
            nn.Conv2d(channels, self.width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.width, wide, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(wide * small[0] * small[1], self.hidden),
            nn.ReLU(),
        )
        return Network(encoder, Decoders(self.outputs, self.hidden, self.width, small))


class Decoders(Head):
    """A decoder for each output; their number does not change with the classes."""

    def __init__(self, outputs: int, hidden: int, width: int, small: tuple[int, int]) -> None:
        super().__init__()
        wide = 2 * width
        self.decoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(hidden, wide * small[0] * small[1]),
                nn.ReLU(),
                nn.Unflatten(1, (wide, *small)),
                nn.ConvTranspose2d(wide, width, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
            )
            for _ in range(outputs)
        )

    @property
    def num_classes(self) -> int:
        return 1

    def grow(self, num_classes: int, seed: int) -> bool:
        return False

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(decoder(features) for decoder in self.decoders)
