"""Records: one sample as a set of named fields, packed into a row of 64-bit words.

A row is a header of HEADER_WORDS words followed by the fields, each aligned to 8 bytes, so that a buffer is
one int64 array, a gather is one `np.take`, an insert one numpy assignment and an exchange one message; fields
are views into rows. Rows of small integers move 10 times slower (7 images of 150 KB: 433 µs against 45 µs).
Large rows end on a multiple of ROW_ALIGNMENT_BYTES: copies to memory that is aligned so are a tenth faster.

The layout is a function of the set of fields: the largest comes first (where it begins is aligned), then by name. Ranks
that list the same fields in another order, and saved states, therefore agree on every byte.

Letters: B rows of a minibatch, R rows of a block, K words of a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.types import ROW_ALIGNMENT_BYTES, Int64Array, Minibatch

HEADER_WORDS = 4
SAMPLE_ID, STRATUM, ROUND, SLOT = range(HEADER_WORDS)
_LARGE_WORDS = 256  # from here on aligning costs little memory (1 %) and gains time
_ALIGNED_WORDS = ROW_ALIGNMENT_BYTES // 8

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One field of a record.

    dtype: a torch dtype. shape: of one sample, without the batch dimension.
    late: the field does not exist when a minibatch arrives; `Rehearsal.attach` brings it after the forward pass.
    """

    dtype: torch.dtype
    shape: tuple[int, ...] = ()
    late: bool = False

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}{' late' if self.late else ''}"


class RecordSpec:
    """The schema of a buffer's records: field names, dtypes and shapes.

    fields: {name: Field}, in the order of the layout, whatever the order they were given in; (dtype, shape) pairs are
    accepted, too. The sample id travels in the header, not as a field.
    """

    def __init__(self, fields: Mapping[str, Field | tuple[torch.dtype, tuple[int, ...]]]) -> None:
        if not isinstance(fields, Mapping):
            raise ValueError(f"a record's schema is {{name: Field or (dtype, shape)}}, got {fields!r}")
        if not fields:
            raise ValueError("a record needs at least one field besides the sample id; the minibatch has none")
        self.fields = _in_layout_order({name: _field(name, declared) for name, declared in fields.items()})
        for name, field in self.fields.items():
            if field.dtype not in _DTYPES.values():
                raise ValueError(f"field {name!r} has dtype {field.dtype}; drb stores {', '.join(_DTYPES)}")
        self.offsets: dict[str, int] = {}
        words = HEADER_WORDS
        for name, field in self.fields.items():
            self.offsets[name] = words * 8
            words += -(-field.size_bytes // 8)
        self.words = words if words < _LARGE_WORDS else -(-words // _ALIGNED_WORDS) * _ALIGNED_WORDS
        self._late = {name: field for name, field in self.fields.items() if field.late}
        self._prompt = {name: field for name, field in self.fields.items() if not field.late}
        self.late = list(self._late)

    @classmethod
    def of(cls, minibatch: Minibatch, exclude: str | None) -> RecordSpec:
        """The schema of a minibatch's fields; `exclude` names the sample id's."""
        return cls({k: Field(v.dtype, tuple(v.shape[1:])) for k, v in minibatch.items() if k != exclude})

    @property
    def row_bytes(self) -> int:
        return self.words * 8

    def check(self, minibatch: Mapping[str, Tensor], rows: int, *, late: bool = False) -> None:
        """Raise ValueError unless the fields are exactly this schema's (late or other) ones, `rows` rows each."""
        expected = self._late if late else self._prompt
        if minibatch.keys() != expected.keys():
            missing = sorted(expected.keys() - minibatch.keys())
            unknown = sorted(minibatch.keys() - expected.keys(), key=str)
            raise ValueError(
                f"the {'late fields' if late else 'minibatch'} must have the fields {sorted(expected)}"
                + (f"; missing: {missing}" if missing else "")
                + (f"; not in the schema: {unknown}" if unknown else "")
            )
        for name, field in expected.items():
            value = minibatch[name]
            if value.dtype == field.dtype and value.shape == (rows, *field.shape):
                continue
            if value.dtype == field.dtype and value.shape[1:] == field.shape:
                raise ValueError(f"field {name!r} has {len(value)} rows, the minibatch has {rows}")
            raise ValueError(
                f"field {name!r} is {Field(value.dtype, tuple(value.shape[1:]))} a sample, "
                f"but this buffer's schema says {field}; the schema is fixed by spec= or the first minibatch"
            )

    def pack(self, name: str, values: Tensor, selected: Int64Array, rows_RK: Int64Array, where: Int64Array) -> None:
        """Write `values[selected]` of one field into rows `where` of a block; values [B, *shape], on the CPU."""
        source = _words_of(values)
        view = _columns_like(source, rows_RK, self.offsets[name])
        view[where] = source if len(selected) == len(source) else source[selected]

    def views(self, rows_RK: Int64Array | Tensor) -> Minibatch:
        """Every field of a block of rows as a tensor [R, *shape] that shares the rows' memory, wherever that is."""
        num_rows = len(rows_RK)
        flat = rows_RK.view(torch.uint8) if isinstance(rows_RK, Tensor) else torch.from_numpy(rows_RK.view(np.uint8))
        return {
            name: flat[:, self.offsets[name] : self.offsets[name] + field.size_bytes]
            .view(field.dtype)
            .view(num_rows, *field.shape)
            for name, field in self.fields.items()
        }

    def to_json(self) -> dict[str, Any]:
        return {
            name: {"dtype": str(f.dtype).removeprefix("torch."), "shape": list(f.shape), "late": f.late}
            for name, f in self.fields.items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecordSpec:
        return cls({k: Field(_DTYPES[f["dtype"]], tuple(f["shape"]), bool(f["late"])) for k, f in value.items()})


def _in_layout_order(fields: dict[str, Field]) -> dict[str, Field]:
    return dict(sorted(fields.items(), key=lambda item: (-item[1].size_bytes, item[0])))


def _field(name: object, declared: Any) -> Field:
    """Raises ValueError for what declares no field."""
    if isinstance(declared, Field):
        declared = (declared.dtype, declared.shape, declared.late)
    try:
        dtype, shape, late = (*declared, False)[:3]
        field = Field(dtype, tuple(int(size) for size in shape), bool(late))
    except (TypeError, ValueError):
        raise ValueError(f"field {name!r} must be declared as Field or (dtype, shape), got {declared!r}") from None
    if not isinstance(name, str) or min(field.shape, default=0) < 0:
        raise ValueError(f"field {name!r} must have a string as its name and no negative size, got {field}")
    return field


def warn_about_float_images(minibatch: Minibatch) -> None:
    """Floating-point images are usually already augmented: rehearsed samples would repeat one augmentation."""
    for name, value in minibatch.items():
        if value.is_floating_point() and value.dim() == 4:
            warnings.warn(
                f"field {name!r} holds {str(value.dtype).removeprefix('torch.')} images: a buffer of them takes "
                f"{value.dtype.itemsize} times the memory of uint8 and replays one frozen augmentation. Give extend() "
                "the raw uint8 images and augment and normalise what it returns.",
                stacklevel=6,  # the line that called extend() or step()
            )


def _words_of(values: Tensor) -> npt.NDArray[Any]:
    """The values' memory as [B, words] of the widest word that fits, without a copy where contiguous.

    One number a row is [B]: numpy scatters that several times faster than [B, 1].
    """
    if values.requires_grad:
        values = values.detach()
    if values.dtype == torch.bfloat16:
        values = values.view(torch.int16)
    array: npt.NDArray[Any] = np.ascontiguousarray(values.numpy())
    if array.ndim == 1:
        return array
    flat = array.reshape(len(array), -1)
    return flat.view(np.int64) if flat.shape[1] and (flat.shape[1] * flat.itemsize) % 8 == 0 else flat


def _columns_like(words: npt.NDArray[Any], rows_RK: Int64Array, offset: int) -> npt.NDArray[Any]:
    """Columns of a block, from a byte offset, typed and shaped as `words` [B] or [B, n]."""
    typed = rows_RK if words.dtype == np.int64 else rows_RK.view(words.dtype)
    start = offset // words.itemsize
    return typed[:, start] if words.ndim == 1 else typed[:, start : start + words.shape[1]]
