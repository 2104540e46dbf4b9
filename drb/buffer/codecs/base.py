"""What a codec is: `drb.buffer.field.Field(codec=…)` stores a field in the form that a codec gives it.

Every row of a buffer has the same length, so a codec stores each sample in a slot of fixed size. Samples are encoded
when they are admitted, travel between ranks encoded, and are decoded where they are used: behind the minibatch that
`Rehearsal.extend` returns, in the exemplars of `Rehearsal.step`, for conditions of `Rehearsal.forget`.

Letters: A admitted samples, R exemplars.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from drb.registry import Registry
from drb.variant import Variant, identity, name_of

Slot: TypeAlias = tuple[torch.dtype, tuple[int, ...]]
"""The dtype and the shape of one sample, as it is stored."""


class Codec(Variant):
    """The base class of codecs. Two codecs are equal if they are of one class and have the same options.

    on_host: whether `decode` works on the CPU only, so that exemplars cannot be decoded on a GPU.
    encodes_anywhere: whether `encode` works on whatever device the values lie, with the same bytes, without waiting
        for it. What does not is encoded by the host, and cannot be stored in GPU memory.
    """

    on_host: ClassVar[bool] = False
    encodes_anywhere: ClassVar[bool] = False
    _known: ClassVar[dict[str, type[Codec]]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        Codec._known[name_of(cls)] = cls

    @abstractmethod
    def slot(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Slot:
        """Return the dtype and shape in which one sample of `dtype` and `shape` is stored.

        Raises:
            ValueError: this codec cannot store such a field.
        """

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """Return the stored form [A, *slot shape] of `values` [A, *shape], both on the CPU: see `encodes_anywhere`."""

    @abstractmethod
    def decode(self, stored: Tensor, out: Tensor) -> None:
        """Write the values of `stored` [R, *slot shape] to `out` [R, *shape], on whatever device both lie.

        The same bytes must give the same values on every device, without waiting for it.
        """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codec) and identity(self) == identity(other)

    def __hash__(self) -> int:
        return hash(name_of(self))

    def __str__(self) -> str:
        name, *options = identity(self).items()
        return f"{name[1]}({', '.join(f'{option}={value!r}' for option, value in options)})"


CODECS: Registry[Codec] = Registry("codec", Codec, "drb.buffer.codecs", "drb.codecs")


def codec_from_json(value: Mapping[str, Any]) -> Codec:
    """Return the codec whose `identity` a saved state holds. Imports nothing that is not drb's own.

    Raises:
        ValueError: no such codec was imported, or it refuses the options.
    """
    options = dict(value)
    name = options.pop("name")
    kind = CODECS.own.get(name) or Codec._known.get(name)
    if kind is None:
        raise ValueError(
            f"the saved state was stored with the codec {name}, which this program has not imported; import it first"
        )
    return CODECS.build(kind, options)
