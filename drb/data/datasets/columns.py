"""Data sets of float32 samples with several fields, held as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from drb.data.identity import Identity, hash_of_tensors
from drb.data.source import Dataset, TensorSource


def dataset_of_columns(
    name: str, train: Mapping[str, Tensor], test: Mapping[str, Tensor], *, input_field: str, num_classes: int
) -> Dataset:
    """A data set of columns [n, …] by field; sample ids count from 0 in each part.

    Args:
        train, test: with `label`, int64 [n], and the same other fields each.
        input_field: the field that a network takes. It is taken as it is: its values are near 1 already.
    """
    parts = {split: _part(columns) for split, columns in (("train", train), ("test", test))}
    inputs = train[input_field]
    return Dataset(
        train=_source(train),
        test=_source(test),
        image_shape=tuple(inputs.shape[1:]),
        num_classes=num_classes,
        mean=(0.0,),
        std=(1.0,),
        dtype=inputs.dtype,
        identity=Identity(name, parts=parts),
    )


def _source(columns: Mapping[str, Tensor]) -> TensorSource:
    return TensorSource({**columns, "sample_id": torch.arange(len(columns["label"]))})


def _part(columns: Mapping[str, Tensor]) -> tuple[int, str]:
    return len(columns["label"]), hash_of_tensors(*(columns[name] for name in sorted(columns)))
