"""A table whose targets are numbers: scikit-learn's diabetes, ten measurements and a score of the disease per patient.

Put it where Python finds it and train on it; each task brings other patients:

    python -m drb.train experiment=none dataset=float_targets.Diabetes objective=regression model=mlp \\
        scenario=instance_incremental scenario.num_tasks=3 optimizer=adam
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.datasets import load_diabetes

from drb.data.datasets import Dataset, DatasetBuilder, tensor_dataset


class Diabetes(DatasetBuilder):
    """442 patients of ten measurements each; the target is the score a year later, brought near 0 and 1."""

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        samples, scores = load_diabetes(return_X_y=True)  # float64 [442, 10] and [442], of 25 to 346
        test, train = np.split(np.random.default_rng(0).permutation(len(scores)), [100])
        targets = (scores - scores[train].mean()) / scores[train].std()
        return tensor_dataset(
            (samples[train], None), (samples[test], None), name="diabetes", targets=(targets[train], targets[test])
        )
