"""Augmentation and normalisation on the device, after exemplars have joined the minibatch.

Raw images come in, so that a rehearsed sample is augmented afresh each time. A whole batch at a time:
each sample draws its own crop offset and flip, one gather moves the pixels. Samples that are no images are normalised.

Shapes: B rows, C, H, W channels, height and width, P padding in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drb.data.source import channel_axis


class Preprocess:
    """Raw samples to network input: random crop and flip of images (training only), then (x - mean) / std.

    uint8 is divided by 255 first. Floats of any shape are taken as they are; `mean` and `std` belong to the axis that
    `drb.data.source.channel_axis` names.
    """

    def __init__(
        self, *, mean: Sequence[float], std: Sequence[float], crop_padding: int = 0, flip: bool = False
    ) -> None:
        """
        Args:
            mean, std: per channel, of x / 255 if it is uint8. All 0 and all 1: no normalisation.
            crop_padding: black pixels added on each side before a crop of the original size; 0 crops nothing.
            flip: mirror left and right with probability 1/2.
        Raises:
            ValueError: lengths that differ, a deviation that is not positive, a negative padding.
        """
        if len(mean) != len(std) or not all(deviation > 0 for deviation in std):
            raise ValueError(
                f"mean and std need one number per channel, std above 0; got mean={list(mean)}, std={list(std)}"
            )
        if crop_padding < 0:
            raise ValueError(f"crop_padding must be 0 or more pixels, got {crop_padding}")
        self._mean = tuple(mean)
        self._std = tuple(std)
        self._padding = crop_padding
        self._flip = flip
        self._identity = not any(mean) and all(deviation == 1 for deviation in std)
        self._constants: dict[tuple[torch.device, int], tuple[Tensor, Tensor]] = {}

    def train(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Augment and normalise: uint8 or floats [B, …] to float32 [B, …]; augmentation needs [B, C, H, W].

        generator: where the offsets and flips come from; the default one of the images' device if None.
        """
        if self._padding or self._flip:
            images = self._augment(images, generator)
        return self.evaluate(images)

    def evaluate(self, images: Tensor) -> Tensor:
        """Normalise only."""
        scaled = images.to(torch.float32)
        if self._identity:
            return scaled.div_(255) if images.dtype == torch.uint8 else scaled
        scale, shift = self._on(images.device, images.dim())
        if images.dtype == torch.uint8:
            return scaled.mul_(scale).add_(shift)
        return scaled * (255 * scale) + shift  # not in place: scaled may be the caller's memory

    def _augment(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Crop from the padded images and flip, by one gather over flattened pixels."""
        count, channels, height, width = images.shape
        device = images.device
        source = images.device if generator is None else generator.device
        drawn: dict[str, Any] = {
            "generator": generator,
            "device": source,
            "pin_memory": source.type != device.type == "cuda",
        }
        padded = F.pad(images, [self._padding] * 4)
        rows = torch.arange(height, device=device).expand(count, height)
        columns = torch.arange(width, device=device).expand(count, width)
        if self._flip:
            flipped = torch.randint(2, (count, 1), **drawn).to(device, non_blocking=True)
            columns = torch.where(flipped.bool(), width - 1 - columns, columns)
        if self._padding:
            offsets = torch.randint(2 * self._padding + 1, (2, count, 1), **drawn)
            top, left = offsets.to(device, non_blocking=True)
            rows, columns = rows + top, columns + left
        pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        index = pixels.view(count, 1, height * width).expand(count, channels, height * width)
        return padded.flatten(2).gather(2, index).view(images.shape)

    def _on(self, device: torch.device, num_axes: int) -> tuple[Tensor, Tensor]:
        """Scale and shift for uint8 samples, float32 [1, C, 1, …], made once per device."""
        if (device, num_axes) not in self._constants:
            axis = channel_axis(num_axes)
            shape = [-1 if each == axis else 1 for each in range(num_axes)]
            mean, std = (torch.tensor(values, dtype=torch.float64).view(shape) for values in (self._mean, self._std))
            constants = ((1 / (255 * std)).float().to(device), (-mean / std).float().to(device))
            self._constants[device, num_axes] = constants
        return self._constants[device, num_axes]
