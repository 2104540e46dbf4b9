"""Anomaly detection: an autoencoder of normal samples, whose error is large for samples that are not.

Training samples are taken to be normal. The main score is the area under the ROC curve of the reconstruction error: the
probability that an anomalous test sample has a larger error than a normal one. It is computed from a histogram of the
logarithm of the errors, so that it adds up over batches and ranks; errors within 1.1 % of each other may share a bin,
and a tie counts one half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from drb.training.objectives.objective import Metric, Sums
from drb.training.objectives.squared_loss import SquaredLoss, numbers_of
from drb.types import Minibatch

_BINS_PER_OCTAVE, _FIRST_OCTAVE, _OCTAVES = 64, -40, 80


class Anomaly(SquaredLoss):
    """Reconstruct the input; tell anomalies by the error.

    input:  the field that the network takes and reconstructs
    target: the field of test samples that is not 0 for anomalies
    """

    name = "anomaly"
    input: str = "series"
    target: str = "anomaly"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("auroc", bounds=(0.0, 1.0), has_baseline=True),
        Metric("error", higher_is_better=False, has_baseline=True),
    )
    """auroc: the area under the ROC curve of the error, undefined without anomalies or without normal samples.
    error: the mean square error of normal samples."""

    def inputs(self, batch: Minibatch) -> Tensor:
        return self.field("input", batch)

    def targets(self, batch: Minibatch) -> Tensor:
        return numbers_of(self.inputs(batch))

    def sums(self, outputs: Any, batch: Minibatch) -> Sums:
        errors, is_anomaly = self.row_losses(outputs, batch), self.field("target", batch).bool()
        octaves = errors.clamp_min(2.0**_FIRST_OCTAVE).log2() - _FIRST_OCTAVE
        bins = (octaves * _BINS_PER_OCTAVE).long().clamp(max=_BINS_PER_OCTAVE * _OCTAVES - 1)
        counts = torch.zeros(2, _BINS_PER_OCTAVE * _OCTAVES, device=errors.device)
        counts.index_put_((is_anomaly.long(), bins), torch.ones_like(errors), accumulate=True)
        normal = ~is_anomaly
        return {"histogram": counts, "error": errors[normal].sum(), "count": normal.sum()}

    def values(self, sums: Mapping[str, Any]) -> dict[str, float]:
        normal, anomalous = sums["histogram"]
        pairs = float(normal.sum() * anomalous.sum())
        below = normal.cumsum(0) - normal / 2
        auroc = float((anomalous * below).sum()) / pairs if pairs else math.nan
        count = float(sums["count"])
        return {"auroc": auroc, "error": float(sums["error"]) / count if count else math.nan}
