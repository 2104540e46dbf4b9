"""What a codec is: `drb.buffer.field.Field(codec=…)` stores a field in the form that a codec gives it.

Every row of a buffer has the same length, so a codec stores each sample in a slot of fixed size. Samples are encoded
when they are admitted, travel between ranks encoded, and are decoded where they are used: behind the minibatch that
`Rehearsal.extend` returns, in the exemplars of `Rehearsal.step`, for conditions of `Rehearsal.forget`.

Letters: A admitted samples, R exemplars.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

Slot = tuple[torch.dtype, tuple[int, ...]]
"""The dtype and the shape of one sample, as it is stored."""


class Codec(ABC):
    """The base of all codecs. A subclass is a frozen dataclass whose fields are its options, checked on construction.

    Defining a subclass makes its name known, so that saved states that were stored with it can be read.

    name: stands for the codec in saved states and messages.
    is_exact: whether decoding gives back every bit of what was encoded.
    """

    name: ClassVar[str]
    is_exact: ClassVar[bool]
    _known: ClassVar[dict[str, type[Codec]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in cls.__dict__:
            Codec._known[cls.name] = cls

    @abstractmethod
    def slot(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Slot:
        """Return the dtype and shape in which one sample of `dtype` and `shape` is stored.

        Raises:
            ValueError: this codec cannot store such a field.
        """

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """Return the stored form [A, *slot shape] of `values` [A, *shape], both on the CPU."""

    @abstractmethod
    def decode(self, stored: Tensor, out: Tensor) -> None:
        """Write the values of `stored` [R, *slot shape] to `out` [R, *shape], on whatever device both lie.

        The same bytes must give the same values on every device, without waiting for it.
        """

    def __str__(self) -> str:
        options = dataclasses.asdict(self)  # type: ignore[call-overload]  # a subclass is a dataclass
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in options.items())})"


def codec_to_json(codec: Codec) -> dict[str, Any]:
    """Return the codec's name and options for a saved state."""
    return {"name": codec.name, "options": dataclasses.asdict(codec)}  # type: ignore[call-overload]


def codec_from_json(value: Mapping[str, Any]) -> Codec:
    """Return the codec that a saved state names.

    Raises:
        ValueError: no codec of that name is known, or it refuses the options.
    """
    kind = Codec._known.get(value["name"])
    if kind is None:
        raise ValueError(
            f"the saved state was stored with the codec {value['name']!r}, which is not known here (known are "
            f"{', '.join(sorted(Codec._known))}); import the module that defines it first"
        )
    return kind(**value["options"])
