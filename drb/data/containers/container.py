"""What all kinds of files with many samples have in common, and the source of minibatches that is made of them.

Shapes: N samples of a container, n of a source, B that are read at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from drb.data.decoding.pool import DecoderPool
from drb.data.file_source import FileSource
from drb.types import Int64Array

Value: TypeAlias = bytes | npt.NDArray[Any]
"""What a container holds of a sample: the content of a picture file, or an array."""


class Container(Protocol):
    """The N samples of one split, in the order of their files.

    labels: int64 [N], or the names of the samples' classes, str [N]. classes: the names of integer labels, if they have
    any. files: the paths of the files, which tell whether the data has changed.
    """

    labels: npt.NDArray[Any]
    classes: tuple[str, ...]
    files: Sequence[str]

    def __len__(self) -> int: ...

    def keys(self) -> list[bytes]:
        """What each sample is called, wherever it lies: sample ids are hashes of these."""
        ...

    def name_of(self, index: int) -> str:
        """What messages call a sample."""
        ...

    def read(self, indices: Int64Array) -> list[Value]:
        """The samples at `indices`, int64 [B] in [0, N). Thread-safe; quick where they lie one behind the other.

        Raises:
            ValueError: a file cannot be read.
        """
        ...


class ContainedSource(FileSource):
    """Some samples of a container, read on each gather; pictures are decoded by the processes of a pool."""

    def __init__(
        self,
        container: Container,
        rows: Int64Array,
        labels: Int64Array,
        sample_ids: Int64Array,
        *,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike = np.uint8,
        decoders: DecoderPool | None = None,
    ) -> None:
        """
        Args:
            rows: int64 [n], which samples of the container these are; labels and sample_ids int64 [n] are theirs.
            shape, dtype: of a sample in a minibatch; all must be alike.
            decoders: for pictures; None if the container holds arrays.
        """
        super().__init__(rows, labels, sample_ids, shape=shape, dtype=dtype)
        self._container = container
        self._decoders = decoders

    def _read(self, rows: Int64Array, out: npt.NDArray[Any]) -> None:
        values = self._container.read(rows)
        if self._decoders is not None:
            self._decode(rows, values, out, self._decoders)
        else:
            self._copy(rows, values, out)

    def _decode(self, rows: Int64Array, values: list[Value], out: npt.NDArray[Any], decoders: DecoderPool) -> None:
        pictures = []
        for row, value in zip(rows.tolist(), values, strict=True):
            if not isinstance(value, bytes):
                raise ValueError(f"{self._container.name_of(row)} is an array, and other samples are picture files")
            pictures.append((self._container.name_of(row), value))
        decoders.decode(pictures, out)

    def _copy(self, rows: Int64Array, values: list[Value], out: npt.NDArray[Any]) -> None:
        for row, value, place in zip(rows.tolist(), values, out, strict=True):
            if isinstance(value, bytes) or (value.shape, value.dtype) != (self._shape, self._dtype):
                found = "a picture file" if isinstance(value, bytes) else f"{value.dtype} {list(value.shape)}"
                raise ValueError(
                    f"{self._container.name_of(row)} is {found}, and other samples are {self._dtype} "
                    f"{list(self._shape)}; give all samples one form"
                )
            place[...] = value
        if out.dtype.kind == "f" and not np.isfinite(out).all():
            first = int((~np.isfinite(out.reshape(len(out), -1))).any(axis=1).argmax())
            raise ValueError(f"{self._container.name_of(int(rows[first]))} holds values that are NaN or infinite")
