"""Records: one sample as a set of named fields, packed into a row of 64-bit words.

A row is a header of HEADER_WORDS words followed by the fields, each aligned to 8 bytes, so that a buffer is one int64
array, a gather is one `np.take`, an insert one numpy assignment and an exchange one message, and fields are views into
rows. Rows of small integers move 10 times slower (7 images of 150 KB: 433 µs against 45 µs). Large rows end on a
multiple of ROW_ALIGNMENT_BYTES: copies to memory that is aligned so are a tenth faster.

The layout is a function of the set of fields: the largest comes first (where it begins is aligned), then by name. Ranks
that list the same fields in another order, and saved states, therefore agree on every byte. A field with a codec lies
in its row as the codec stores it. An optional or growing field is followed by one word: how many columns the record has
of it, 0 if it lacks the field.

Letters: B rows of a minibatch, A rows that are selected from it, R rows of a block, K words of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.buffer.field import Field as Field  # who declares a schema needs both
from drb.buffer.field import declared_field
from drb.types import ROW_ALIGNMENT_BYTES, Int64Array, Minibatch
from drb.warn import warn_caller

HEADER_WORDS = 4
SAMPLE_ID, STRATUM, ROUND, SLOT = range(HEADER_WORDS)
_LARGE_WORDS = 256  # from here on aligning costs little memory (1 %) and gains time
_ALIGNED_WORDS = ROW_ALIGNMENT_BYTES // 8


class RecordSpec:
    """The schema of a buffer's records: field names, dtypes and shapes.

    fields: {name: Field}, in the order of the layout, whatever the order they were given in; (dtype, shape) pairs are
    accepted, too. The sample id travels in the header, not as a field.

    late, required_late, refreshed, counted, encoded, integers: the names of the late fields; of those that every record
    must have; of those that change when a sample is offered again; of the optional and growing ones; of those with a
    codec; of those that are one integer, and not late.
    """

    def __init__(self, fields: Mapping[str, Field | tuple[torch.dtype, tuple[int, ...]]]) -> None:
        if not isinstance(fields, Mapping):
            raise ValueError(f"a record's schema is {{name: Field or (dtype, shape)}}, got {fields!r}")
        if not fields:
            raise ValueError("a record needs at least one field besides the sample id; the minibatch has none")
        self.fields = _in_layout_order({name: declared_field(name, declared) for name, declared in fields.items()})
        self.offsets: dict[str, int] = {}
        words = HEADER_WORDS
        for name, field in self.fields.items():
            self.offsets[name] = words * 8
            words += _words_in_row(field)
        self.words = words if words < _LARGE_WORDS else -(-words // _ALIGNED_WORDS) * _ALIGNED_WORDS
        self._late = {name: field for name, field in self.fields.items() if field.late}
        self._prompt = {name: field for name, field in self.fields.items() if not field.late}
        self.late = list(self._late)
        self.required_late = {name for name, field in self._late.items() if not field.optional}
        self.refreshed = {name for name, field in self._late.items() if field.refreshed}
        self.counted = [name for name, field in self.fields.items() if field.is_counted]
        self.integers = {name for name, f in self._prompt.items() if not f.shape and not f.dtype.is_floating_point}
        self.encoded = [name for name, field in self.fields.items() if field.codec is not None]
        self._words_of_optional = [self._span(name) for name, field in self.fields.items() if field.optional]

    @classmethod
    def of(cls, minibatch: Minibatch, exclude: str | None) -> RecordSpec:
        """Return the schema of a minibatch's fields without `exclude`, the field of the sample id."""
        return cls({k: Field(v.dtype, tuple(v.shape[1:])) for k, v in minibatch.items() if k != exclude})

    @property
    def row_bytes(self) -> int:
        """The bytes that one record takes in a buffer and on its way between ranks."""
        return self.words * 8

    @property
    def late_bytes(self) -> int:
        """The bytes that late fields take of a row."""
        return 8 * sum(map(_words_in_row, self._late.values()))

    @property
    def decoded_bytes(self) -> int:
        """The bytes that the fields of one record take where they are used, at least a row's."""
        return max(self.row_bytes, sum(field.size_bytes for field in self.fields.values()))

    def check(self, minibatch: Mapping[str, Tensor], rows: int, *, late: bool = False) -> None:
        """Raise ValueError unless the fields are exactly this schema's (late or other) ones, `rows` rows each.

        Optional fields may be missing, and growing ones may have fewer columns than the schema's.
        """
        expected = self._late if late else self._prompt
        if minibatch.keys() != expected.keys():
            missing = sorted((self.required_late if late else expected.keys()) - minibatch.keys())
            unknown = sorted(minibatch.keys() - expected.keys(), key=str)
            if missing or unknown:
                raise ValueError(
                    f"the {'late fields' if late else 'minibatch'} must have the fields {sorted(expected)}"
                    + (f"; missing: {missing}" if missing else "")
                    + (f"; not in the schema: {unknown}" if unknown else "")
                )
        for name, value in minibatch.items():
            field = expected[name]
            if value.dtype == field.dtype and value.shape == (rows, *field.shape):
                continue
            if field.takes(value, rows):
                continue
            if value.dim() and field.takes(value, len(value)):
                raise ValueError(f"field {name!r} has {len(value)} rows, the minibatch has {rows}")
            raise ValueError(
                f"field {name!r} is {Field(value.dtype, tuple(value.shape[1:]))} a sample, "
                f"but this buffer's schema says {field}; the schema is fixed by spec= or the first minibatch"
            )

    def pack(self, name: str, values: Tensor, selected: Int64Array, rows_RK: Int64Array, where: Int64Array) -> None:
        """Write `values[selected]` of one field into the rows `where` of a block.

        Args:
            values: [B, *shape] on the CPU, in the field's dtype.
            selected, where: int64 [A] each; `selected` ascends.
        """
        field = self.fields[name]
        if field.codec is not None or name in self.counted:
            values = values.detach()
            values = values if len(selected) == len(values) else values[torch.from_numpy(selected)]
            if name in self.counted:
                rows_RK[where, self._count_word(name)] = field.columns_of(values)
            values = field.encode(values)
        source = _words_of(values)
        view = _columns_like(source, rows_RK, self.offsets[name])
        view[where] = source if len(selected) == len(source) else source[selected]

    def pack_all(
        self, fields: Mapping[str, Tensor], selected: Int64Array, rows_RK: Int64Array, where: Int64Array
    ) -> None:
        """Write `values[selected]` of several fields, as `pack` does."""
        for name, values in fields.items():
            self.pack(name, values, selected, rows_RK, where)

    def refresh(self, rows_AK: Int64Array, newer_AK: Int64Array) -> None:
        """Overwrite the refreshed fields of records by those that newer records of the same samples have."""
        for name in self.refreshed:
            words = self._span(name)
            has = newer_AK[:, words.stop - 1] > 0 if name in self.counted else slice(None)
            rows_AK[has, words] = newer_AK[has, words]

    def clear_optional(self, rows_RK: Int64Array, where: Int64Array) -> None:
        """Let the rows `where` int64 [A] of a block lack all optional fields."""
        for words in self._words_of_optional:
            rows_RK[where, words] = 0

    def views(self, rows_RK: Int64Array | Tensor, decoded: Minibatch | None = None) -> Minibatch:
        """Return every field of a block of rows as a tensor [R, *shape], wherever the block lies.

        A field shares the rows' memory unless it has a codec: then its values are decoded.

        decoded: memory [at least R, *shape] for the fields that have a codec; None allocates it.
        """
        fields = self.stored_views(rows_RK)
        for name in self.encoded:
            field, stored = self.fields[name], fields[name]
            if decoded is not None:
                fields[name] = decoded[name][: len(stored)]
            else:
                fields[name] = torch.empty((len(stored), *field.shape), dtype=field.dtype, device=stored.device)
            field.decode(stored, fields[name])
        return fields

    def stored_views(self, rows_RK: Int64Array | Tensor) -> Minibatch:
        """Return every field of a block of rows as it is stored, [R, *slot shape], in the rows' memory."""
        flat = rows_RK.view(torch.uint8) if isinstance(rows_RK, Tensor) else torch.from_numpy(rows_RK.view(np.uint8))
        fields = {}
        for name, field in self.fields.items():
            (dtype, shape), start = field.slot, self.offsets[name]
            fields[name] = flat[:, start : start + field.stored_bytes].view(dtype).view(len(flat), *shape)
        return fields

    def known(self, rows_RK: Tensor) -> Minibatch:
        """Return how many columns of each optional or growing field every row has: int64 [R], in the rows' memory."""
        return {name: rows_RK[:, self._count_word(name)] for name in self.counted}

    def read(self, name: str, rows_RK: Int64Array, index: Int64Array) -> Tensor:
        """Return one field of the rows `index` int64 [A] of a block, decoded: [A, *shape], a copy."""
        field, words = self.fields[name], self._span(name)
        dtype, shape = field.slot
        taken = torch.from_numpy(np.ascontiguousarray(rows_RK[index, words]).view(np.uint8))
        stored = taken[:, : field.stored_bytes].view(dtype).view(len(index), *shape)
        if field.codec is None:
            return stored.contiguous()
        values = torch.empty((len(index), *field.shape), dtype=field.dtype)
        field.decode(stored, values)
        return values

    def read_from(self, rows: Any, name: str, index: Int64Array) -> Tensor:
        """Return one field of some rows, as `read` does, of an array or of what is indexed like one, as `LazyRows`."""
        return self.read(name, np.ascontiguousarray(rows[index]), np.arange(len(index)))

    def widens(self, other: RecordSpec) -> bool:
        """Whether records of the schema `other` can be laid out anew for this one without losing anything.

        That is so if this one has all of its fields, perhaps with more room for growing ones, and otherwise only
        optional fields.
        """
        return other.fields.keys() <= self.fields.keys() and all(
            field.widens(other.fields[name]) if name in other.fields else field.optional
            for name, field in self.fields.items()
        )

    def widen(self, rows_RK: Int64Array, other: RecordSpec) -> Int64Array:
        """Return rows of a schema that this one widens as rows of this one, int64 [R, words]; they lack new fields."""
        wide: Int64Array = np.zeros((len(rows_RK), self.words), np.int64)
        wide[:, :HEADER_WORDS] = rows_RK[:, :HEADER_WORDS]
        theirs, counts = other.stored_views(rows_RK), other.known(torch.from_numpy(rows_RK))
        ours, own_counts = self.stored_views(wide), self.known(torch.from_numpy(wide))
        for name, stored in theirs.items():
            target, field = ours[name], other.fields[name]
            (target[:, : stored.shape[1]] if field.growing else target).copy_(stored)
            if name in own_counts:
                own_counts[name][:] = counts[name] if name in counts else max(1, *field.shape[:1])
        return wide

    def to_json(self) -> dict[str, Any]:
        """Return the schema for a saved state."""
        return {name: field.to_json() for name, field in self.fields.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecordSpec:
        """Return the schema that `to_json` gave."""
        return cls({name: Field.from_json(field) for name, field in value.items()})

    def _span(self, name: str) -> slice:
        """The words of a row that belong to this field."""
        first = self.offsets[name] // 8
        return slice(first, first + _words_in_row(self.fields[name]))

    def _count_word(self, name: str) -> int:
        """The word that says how many columns of a counted field there are."""
        return self.offsets[name] // 8 + _words_in_row(self.fields[name]) - 1


def _words_in_row(field: Field) -> int:
    return -(-field.stored_bytes // 8) + field.is_counted


def _in_layout_order(fields: dict[str, Field]) -> dict[str, Field]:
    return dict(sorted(fields.items(), key=lambda item: (-item[1].stored_bytes, item[0])))


def warn_about_float_images(minibatch: Minibatch) -> None:
    """Warn that floating-point images are usually already augmented: exemplars would repeat one augmentation."""
    for name, value in minibatch.items():
        if value.is_floating_point() and value.dim() == 4:
            warn_caller(
                f"field {name!r} holds {str(value.dtype).removeprefix('torch.')} images: a buffer of them takes "
                f"{value.dtype.itemsize} times the memory of uint8 and replays one frozen augmentation. Give extend() "
                "the raw uint8 images and augment and normalise what it returns."
            )


def _words_of(values: Tensor) -> npt.NDArray[Any]:
    """Return the values' memory as [B, words] of the widest word that fits, without a copy where it is contiguous.

    One number a row is [B]: numpy scatters that several times faster than [B, 1].
    """
    if values.requires_grad:
        values = values.detach()
    if values.dtype == torch.bfloat16:
        values = values.view(torch.int16)
    array: npt.NDArray[Any] = np.ascontiguousarray(values.numpy())
    if array.ndim == 1:
        return array
    flat = array.reshape(len(array), math.prod(array.shape[1:]))  # also of no rows
    return flat.view(np.int64) if flat.shape[1] and (flat.shape[1] * flat.itemsize) % 8 == 0 else flat


def _columns_like(words: npt.NDArray[Any], rows_RK: Int64Array, offset: int) -> npt.NDArray[Any]:
    """Return the columns of a block from a byte offset on, typed and shaped as `words` [B] or [B, n]."""
    typed = rows_RK if words.dtype == np.int64 else rows_RK.view(words.dtype)
    start = offset // words.itemsize
    return typed[:, start] if words.ndim == 1 else typed[:, start : start + words.shape[1]]
