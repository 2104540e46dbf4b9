"""Synthetic diffraction images with the objects that made them: amplitude and phase are to be reconstructed.

A thin object with the amplitude a and the phase φ leaves the intensity |FFT(a e^{iφ})|² far behind it. Objects come in
kinds, each with its own few modes, of which every object is another mixture; a stream brings new kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from drb.data.datasets.builder import DatasetBuilder
from drb.data.datasets.columns import dataset_of_columns
from drb.data.source import Dataset
from drb.options import setting
from drb.seeding import derive_seed
from drb.types import Float64Array

_MODES = 3


class Diffraction(DatasetBuilder):
    """Diffraction images with their objects: `image`, `amplitude` and `phase`, float32 [1, S, S] each.

    The image is log(1 + |FFT|²) / 4, the amplitude is in [0, 1], the phase in radians within about ±1. The label is the
    object's kind.
    """

    name = "diffraction"
    num_kinds: int = setting(6, at_least=1)
    size: int = setting(16, at_least=4)
    num_train: int = setting(3000, at_least=1)
    num_test: int = setting(600, at_least=1)
    seed: int = setting(0, at_least=0)

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        generator = np.random.default_rng(derive_seed(self.seed, "diffraction"))
        modes = np.stack([_smooth(self.size, generator) for _ in range(self.num_kinds * 2 * _MODES)])
        modes = modes.reshape(self.num_kinds, 2, _MODES, self.size, self.size)
        train, test = (self._columns(modes, count, generator) for count in (self.num_train, self.num_test))
        return dataset_of_columns(self.name, train, test, input_field="image", num_classes=self.num_kinds)

    def _columns(self, modes: Float64Array, count: int, generator: np.random.Generator) -> dict[str, Tensor]:
        labels = np.arange(count) % self.num_kinds
        weights = generator.normal(size=(count, 2, _MODES)) / np.sqrt(_MODES)
        fields = np.einsum("npm,npmxy->npxy", weights, modes[labels])
        amplitude, phase = 1 / (1 + np.exp(-2 * fields[:, 0])), fields[:, 1]
        far = np.fft.fftshift(np.fft.fft2(amplitude * np.exp(1j * phase), norm="ortho"), axes=(1, 2))
        image = np.log1p(np.abs(far) ** 2) / 4
        columns = {"image": image, "amplitude": amplitude, "phase": phase}
        return {
            **{name: torch.from_numpy(values.astype(np.float32)[:, None]) for name, values in columns.items()},
            "label": torch.from_numpy(labels.astype(np.int64)),
        }


def _smooth(size: int, generator: np.random.Generator) -> Float64Array:
    """A random field without high frequencies, with the variance 1."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    noise = np.fft.fft2(generator.normal(size=(size, size)))
    field = np.fft.ifft2(noise * np.exp(-((6 * frequency) ** 2))).real
    smooth: Float64Array = (field - field.mean()) / field.std()
    return smooth
