"""A synthetic time series with drifting regimes, in windows: for forecasting and anomaly detection.

Each regime has waves of its own, with other frequencies and phases in each channel. Windows are cut from a regime at
random times, with noise. A share of the test windows has a fault: for a quarter of the window one channel stays at some
level.
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

_WAVES = 2


class DriftingSeries(DatasetBuilder):
    """Windows of a time series: `series` float32 [T, C], what follows as `future` float32 [H, C], `anomaly` int64.

    Training windows have no anomalies. The label is the regime, so that class-incremental streams drift from regime to
    regime.

    length:        steps of a window (T)
    channels:      C
    horizon:       steps that follow (H)
    share_anomalous: of the test windows
    """

    name = "drifting_series"
    num_regimes: int = setting(6, at_least=1)
    length: int = setting(24, at_least=4)
    channels: int = setting(2, at_least=1)
    horizon: int = setting(4, at_least=1)
    noise: float = setting(0.1, at_least=0)
    share_anomalous: float = setting(0.3, at_least=0, below=1)
    num_train: int = setting(3000, at_least=1)
    num_test: int = setting(900, at_least=1)
    seed: int = setting(0, at_least=0)

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        generator = np.random.default_rng(derive_seed(self.seed, "drifting series"))
        shape = (self.num_regimes, _WAVES, self.channels)
        limits = (0.1, 1.2), (0.0, 2 * np.pi), (0.4, 1.0)  # of frequencies, phases and heights
        waves = np.stack([generator.uniform(low, high, shape) for low, high in limits])
        train = self._columns(waves, self.num_train, 0.0, generator)
        test = self._columns(waves, self.num_test, self.share_anomalous, generator)
        return dataset_of_columns(self.name, train, test, input_field="series", num_classes=self.num_regimes)

    def _columns(
        self, waves: Float64Array, count: int, anomalous: float, generator: np.random.Generator
    ) -> dict[str, Tensor]:
        regimes = np.arange(count) % self.num_regimes
        frequency, phase, height = (values[regimes][:, None] for values in waves)  # [n, 1, waves, C]
        start = generator.uniform(0, 1000, count)[:, None]
        steps = (start + np.arange(self.length + self.horizon))[:, :, None, None]
        values = (height * np.sin(frequency * steps + phase)).sum(2)
        values += self.noise * generator.normal(size=values.shape)
        series, future = values[:, : self.length], values[:, self.length :]
        is_anomalous = generator.random(count) < anomalous
        for row in np.flatnonzero(is_anomalous):
            first, channel = generator.integers(self.length - self.length // 4 + 1), generator.integers(self.channels)
            series[row, first : first + self.length // 4, channel] = generator.uniform(-1.5, 1.5)
        return {
            "series": torch.from_numpy(series.astype(np.float32)),
            "future": torch.from_numpy(future.astype(np.float32)),
            "anomaly": torch.from_numpy(is_anomalous.astype(np.int64)),
            "label": torch.from_numpy(regimes.astype(np.int64)),
        }
