"""Data that are no images: scikit-learn's breast cancer table, 30 measurements per sample, in one file.

Put it where Python finds it and train on it; each task brings one of the two diagnoses:

    python -m drb.train dataset=float_data.BreastCancer scenario.classes_per_task=1 model=mlp
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.datasets import load_breast_cancer

from drb.data.datasets import Dataset, DatasetBuilder, tensor_dataset
from drb.options import setting


class BreastCancer(DatasetBuilder):
    """569 samples of 30 measurements in 2 classes; each measurement is normalised by its own mean and deviation.

    test_fraction: share of the samples that are for testing.
    """

    test_fraction: float = setting(0.25, above=0, below=1)

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        samples, labels = load_breast_cancer(return_X_y=True)  # float64 [569, 30] and int64 [569]
        order = np.random.default_rng(0).permutation(len(labels))
        test, train = np.split(order, [round(self.test_fraction * len(order))])
        return tensor_dataset((samples[train], labels[train]), (samples[test], labels[test]), name="breast_cancer")
