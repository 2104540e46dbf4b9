"""What is to be forgotten: sample ids, or what a condition on the record's fields matches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.buffer.record import SAMPLE_ID, STRATUM, RecordSpec
from drb.types import BoolArray, Int64Array, Minibatch

SampleIds: TypeAlias = int | Sequence[int] | npt.NDArray[Any] | Tensor
Where: TypeAlias = Mapping[str, Any] | Callable[[Minibatch], Any]
"""{field: value or values}, all of which must hold; or a function of named tensors [n, …] that returns bool [n]. The
fields are the record's, `sample_id` and `stratum`. The tensors are zeroed afterwards."""

_CHUNK_BYTES = 1 << 24  # of rows that are looked at together


def as_ids(sample_ids: SampleIds | None) -> Int64Array:
    """int64 [D], ascending and distinct.

    Raises:
        ValueError: something else than integers.
    """
    ids = _array(() if sample_ids is None else sample_ids)
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"sample ids must be integers, got {ids.dtype}")
    return np.unique(ids.astype(np.int64))


def matching_ids(where: Where, spec: RecordSpec, rows: Any, index: Int64Array) -> Int64Array:
    """Ids of those records `rows[index]` for which `where` holds: int64.

    rows: int64 [n, K], or whatever gives such rows when indexed with an array.

    Raises:
        ValueError: no such field, or not a condition.
    """
    if isinstance(where, Mapping) and not where:
        raise ValueError("where= is empty: it would match every exemplar")
    found = []
    step = max(1, _CHUNK_BYTES // spec.row_bytes)
    for start in range(0, len(index), step):
        block = np.ascontiguousarray(rows[index[start : start + step]])
        ids, fields = block[:, SAMPLE_ID].copy(), _named(spec, block)
        found.append(ids[matches(where, fields)])
        block.fill(0)  # nothing of a record may be left in memory that is given back
        for name in spec.encoded:
            fields[name].zero_()
    return np.concatenate([*found, np.empty(0, np.int64)])


def _named(spec: RecordSpec, block: Int64Array) -> Minibatch:
    headers = torch.from_numpy(block)
    return {"sample_id": headers[:, SAMPLE_ID], "stratum": headers[:, STRATUM], **spec.views(block)}


def matches(where: Where, fields: Minibatch) -> BoolArray:
    """For which of n samples `where` holds, bool [n].

    fields: tensors [n, …] by name, `sample_id` among them.

    Raises:
        ValueError: no such field, or not a condition.
    """
    num_rows = len(fields["sample_id"])
    if isinstance(where, Mapping):
        mask = np.ones(num_rows, np.bool_)
        for name, wanted in where.items():
            mask &= _equals(name, fields, wanted)
        return mask
    result = _array(where(fields)).copy()
    if result.dtype != np.bool_ or result.shape != (num_rows,):
        raise ValueError(
            f"where() must return one bool per sample, [{num_rows}], got {result.dtype} {list(result.shape)}"
        )
    return result


def _equals(name: str, fields: Minibatch, wanted: Any) -> BoolArray:
    if name not in fields:
        raise ValueError(f"where= names the field {name!r}, which records lack; they have {sorted(fields)}")
    values = fields[name]
    if values.dim() != 1:
        raise ValueError(
            f"where= compares numbers, and the field {name!r} has {list(values.shape[1:])} of them per sample; give a "
            "function"
        )
    choices = np.atleast_1d(_array(wanted))
    if choices.dtype.kind not in "biuf":
        raise ValueError(f"where= compares the field {name!r} with numbers, got {wanted!r}")
    return np.isin(values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy(), choices)


def _array(values: Any) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
