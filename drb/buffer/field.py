"""One field of a record: what a sample has under one name, and how it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from drb.buffer.codecs import Codec, codec_from_json
from drb.variant import identity

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One field of a record.

    dtype: a torch dtype.
    shape: the shape of one sample, without the batch dimension.
    late: the field does not exist when a minibatch arrives; `Rehearsal.attach` brings it after the forward pass.
    optional: a late field that a record may lack, because it was never attached, or because the record was stored
        before the field was part of the schema.
    growing: a late field whose first dimension in `shape` is a maximum: what is attached may have fewer columns, as
        the outputs of a network whose head grows. The columns beyond are stored as zeros.
    codec: how values are stored, for example `drb.buffer.codecs.Bits(bits=4)`; None stores them as they are.
    refreshed: a late field that is overwritten when a stored sample is offered again and its new value is attached, as
        the outputs of a network that has learnt since. Other late fields keep the value that was attached first.

    `Exemplars.known` tells how many columns of an optional or growing field each exemplar has.
    """

    dtype: torch.dtype
    shape: tuple[int, ...] = ()
    late: bool = False
    optional: bool = False
    growing: bool = False
    codec: Codec | None = None
    refreshed: bool = False

    @property
    def slot(self) -> tuple[torch.dtype, tuple[int, ...]]:
        """The dtype and shape in which one sample is stored."""
        return (self.dtype, self.shape) if self.codec is None else self.codec.slot(self.dtype, self.shape)

    @property
    def stored_bytes(self) -> int:
        """The bytes that one sample's values take in a row."""
        dtype, shape = self.slot
        return math.prod(shape) * dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """The bytes that one sample's values take outside of rows."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_counted(self) -> bool:
        """Whether every record says how many columns of this field it has."""
        return self.optional or self.growing

    def encode(self, values: Tensor) -> Tensor:
        """Return values [A, *shape] in the form in which they are stored, [A, *slot shape]; on the CPU."""
        if self.growing and values.shape[1:] != self.shape:
            padded = values.new_zeros((len(values), *self.shape))
            padded[:, : values.shape[1]] = values
            values = padded
        return values if self.codec is None else self.codec.encode(values)

    def decode(self, stored: Tensor, out: Tensor) -> None:
        """Write the values of `stored` [R, *slot shape] to `out` [R, *shape]."""
        if self.codec is None:
            out.copy_(stored)
        else:
            self.codec.decode(stored, out)

    def columns_of(self, values: Tensor) -> int:
        """How many columns these values [A, …] of a counted field have; a field of one number has one."""
        return values.shape[1] if self.shape else 1

    def takes(self, value: Tensor, rows: int) -> bool:
        """Whether `value` holds `rows` samples of this field."""
        if value.dtype != self.dtype:
            return False
        if self.growing and value.dim() == 1 + len(self.shape):
            fits = value.shape[1] <= self.shape[0] and value.shape[2:] == self.shape[1:]
            return bool(fits and value.shape[0] == rows)
        return bool(value.shape == (rows, *self.shape))

    def widens(self, other: Field) -> bool:
        """Whether records with the field `other` can be laid out anew for this one without losing anything."""
        if self == other:
            return True
        if self.growing and other.growing and self.shape[0] >= other.shape[0]:
            other = replace(other, shape=(self.shape[0], *other.shape[1:]))
        return self.optional >= other.optional and self == replace(
            other, optional=self.optional, refreshed=self.refreshed
        )

    def __str__(self) -> str:
        shape = [f"up to {self.shape[0]}", *self.shape[1:]] if self.growing else self.shape
        words = [f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, shape))}]"]
        words += ["optional"] * self.optional + ["late"] * self.late
        words += [] if self.codec is None else [f"stored by {self.codec}"]
        return " ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return this field for a saved state."""
        value = {"dtype": str(self.dtype).removeprefix("torch."), "shape": list(self.shape), "late": self.late}
        value |= {name: True for name in ("optional", "growing", "refreshed") if getattr(self, name)}
        return value if self.codec is None else {**value, "codec": identity(self.codec)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Field:
        """Return the field that `to_json` gave. Raises ValueError for a codec that is not known."""
        return cls(
            DTYPES[value["dtype"]],
            tuple(value["shape"]),
            bool(value["late"]),
            bool(value.get("optional", False)),
            bool(value.get("growing", False)),
            codec_from_json(value["codec"]) if "codec" in value else None,
            bool(value.get("refreshed", False)),
        )


def declared_field(name: object, declared: Any) -> Field:
    """Return the field that a schema declares as Field, (dtype, shape) or (dtype, shape, late).

    Raises:
        ValueError: what declares no field, or one that cannot be stored.
    """
    field = declared if isinstance(declared, Field) else _from_tuple(name, declared)
    try:
        field = replace(field, shape=tuple(map(int, field.shape)), late=bool(field.late))
    except (TypeError, ValueError):
        raise _not_a_field(name, declared) from None
    if not isinstance(name, str) or min(field.shape, default=0) < 0:
        raise ValueError(f"field {name!r} must have a string as its name and no negative size, got {field}")
    if field.dtype not in DTYPES.values():
        raise ValueError(f"field {name!r} has dtype {field.dtype}; drb stores {', '.join(DTYPES)}")
    if field.is_counted and not field.late:
        raise ValueError(f"field {name!r} is optional or growing, which only late fields can be: set late=True")
    if field.refreshed and not field.late:
        raise ValueError(f"field {name!r} is refreshed, which only late fields can be: set late=True")
    if field.growing and (not field.shape or field.codec is not None):
        raise ValueError(f"field {name!r} is growing: give it a shape whose first size is the maximum, and no codec")
    if field.codec is not None:
        if not isinstance(field.codec, Codec):
            raise ValueError(f"field {name!r} must have a Codec such as Bits(bits=4) as its codec, got {field.codec!r}")
        try:
            field.codec.slot(field.dtype, field.shape)
        except ValueError as error:
            raise ValueError(f"field {name!r} cannot be stored: {error}") from None
    return field


def _from_tuple(name: object, declared: Any) -> Field:
    try:
        dtype, shape, late = (*declared, False)[:3]
    except (TypeError, ValueError):
        raise _not_a_field(name, declared) from None
    return Field(dtype, shape, late)


def _not_a_field(name: object, declared: Any) -> ValueError:
    return ValueError(f"field {name!r} must be declared as Field or (dtype, shape), got {declared!r}")
