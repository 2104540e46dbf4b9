"""Columns of Arrow: data sets of Hugging Face as `save_to_disk` leaves them, and Parquet files.

A picture is bytes, or a struct with `bytes` and `path`, as the library `datasets` writes it. Anything else must be an
array of numbers, one list (of lists) per sample.

Arrow files are mapped, so any sample is read from where it lies. Parquet is compressed: a sample costs its row group,
of which the last few are kept, so read it in order (a prefill and a cache do).
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drb.data.containers.container import Value
from drb.data.ids import key_of_content
from drb.types import Int64Array

_KEPT_GROUPS = 4  # row groups of Parquet in memory


def load_pyarrow() -> Any:
    """pyarrow with its readers. Raises ValueError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("Parquet and Arrow files need pyarrow: pip install 'drb-train[arrow]'") from error
    return pyarrow


class ArrowColumns:
    """Samples in one column of Arrow files or Parquet files, with their labels in another.

    files: paths, all `.parquet` or all Arrow streams. image, label: the columns' names. id_column: whose values name
    the samples; None: a sample is named by its content, so that it keeps its id wherever it lies.

    Raises:
        ValueError: a file that cannot be read, or lacks a column.
    """

    def __init__(self, files: Sequence[str], image: str, label: str, *, id_column: str | None = None) -> None:
        self.files = files
        self._arrow = load_pyarrow()
        self._columns = [image, label, *([] if id_column is None else [id_column])]
        self._blocks = [block for file in files for block in self._blocks_of(file)]
        self._ends = np.cumsum([block.length for block in self._blocks], dtype=np.int64)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self.classes = next((block.classes for block in self._blocks if block.classes), ())
        self.labels = self._all_labels()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def keys(self) -> list[bytes]:
        if len(self._columns) > 2:
            return [str(value).encode() for value in self._values_of(self._columns[2])]
        seen: Counter[bytes] = Counter()
        return [key_of_content(content, seen) for content in self._contents()]

    def name_of(self, index: int) -> str:
        block = self._blocks[int(np.searchsorted(self._ends, index, side="right"))]
        return f"row {index - self._start(self._blocks.index(block)) + block.first} of {block.file}"

    def read(self, indices: Int64Array) -> list[Value]:
        block_of = np.searchsorted(self._ends, indices, side="right")
        values: list[Value | None] = [None] * len(indices)
        for number in np.unique(block_of).tolist():
            places = np.flatnonzero(block_of == number)
            rows = indices[places] - self._start(number)
            for place, value in zip(places.tolist(), self._read_rows(number, rows), strict=True):
                values[place] = value
        return [value for value in values if value is not None]

    def _start(self, number: int) -> int:
        return int(self._ends[number]) - self._blocks[number].length

    def _read_rows(self, number: int, rows: Int64Array) -> Iterator[Value]:
        block = self._blocks[number]
        for row, scalar in zip(rows.tolist(), self._images(number).take(self._arrow.array(rows)), strict=True):
            yield _value(scalar, block.file, row + block.first)

    def _images(self, number: int) -> Any:
        """The column of images of a block."""
        block = self._blocks[number]
        if block.table is not None:
            return block.table.column(self._columns[0])
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
            else:
                self._kept[number] = self._group(block, self._columns[:1]).column(0)
                if len(self._kept) > _KEPT_GROUPS:
                    self._kept.popitem(last=False)
            return self._kept[number]

    def _group(self, block: _Block, columns: Sequence[str]) -> Any:
        """Columns of a row group, from the file."""
        try:
            with self._arrow.parquet.ParquetFile(block.file) as file:
                return file.read_row_group(block.group, columns=list(columns))
        except (OSError, self._arrow.ArrowException) as error:
            raise _unreadable(block.file, error) from error

    def _values_of(self, column: str) -> Iterator[Any]:
        for block in self._blocks:
            table = block.table if block.table is not None else self._group(block, [column])
            yield from table.column(column).to_pylist()

    def _contents(self) -> Iterator[bytes]:
        for number, block in enumerate(self._blocks):
            for row, scalar in enumerate(self._images(number)):
                value = _value(scalar, block.file, row + block.first)
                yield value if isinstance(value, bytes) else value.tobytes()

    def _all_labels(self) -> npt.NDArray[Any]:
        values = list(self._values_of(self._columns[1]))
        if all(isinstance(value, int) for value in values):
            return np.array(values, np.int64)
        if all(isinstance(value, str) for value in values):
            return np.array(values, np.str_)
        odd = next(value for value in values if not isinstance(value, (int, str)) or type(value) is not type(values[0]))
        raise ValueError(
            f"the labels in column {self._columns[1]!r} of {self.files[0]} must be all integers or all names, got "
            f"{odd!r}"
        )

    def _blocks_of(self, file: str) -> Iterator[_Block]:
        arrow = self._arrow
        try:
            if not file.endswith(".parquet"):
                table = arrow.ipc.open_stream(arrow.memory_map(file)).read_all()
                self._require_columns(file, table.schema)
                yield _Block(file, 0, len(table), _class_names(table.schema, self._columns[1]), table)
                return
            with arrow.parquet.ParquetFile(file) as found:
                schema, first = found.schema_arrow, 0
                self._require_columns(file, schema)
                for group in range(found.num_row_groups):
                    length = found.metadata.row_group(group).num_rows
                    yield _Block(file, first, length, _class_names(schema, self._columns[1]), group=group)
                    first += length
        except (OSError, arrow.ArrowException) as error:
            raise _unreadable(file, error) from error

    def _require_columns(self, file: str, schema: Any) -> None:
        for setting, name in zip(("image", "label", "id_column"), self._columns, strict=False):
            if name not in schema.names:
                raise ValueError(
                    f"{file} has no column {name!r}, it has {', '.join(schema.names)}; set dataset.{setting}"
                )


class _Block:
    """A whole Arrow file, whose table is mapped, or a row group of Parquet.

    first: the number of its first row in the file. classes: the names of integer labels.
    """

    def __init__(
        self, file: str, first: int, length: int, classes: tuple[str, ...], table: Any = None, group: int = 0
    ) -> None:
        self.file, self.first, self.length, self.classes = file, first, length, classes
        self.table, self.group = table, group


def saved_splits(root: Path) -> dict[str, list[str]]:
    """The Arrow files of a folder that `save_to_disk` of the library `datasets` wrote, by split ("" if undivided).

    Raises:
        ValueError: the folder is none, or is damaged.
    """
    description, files = root / "dataset_dict.json", dict[str, list[str]]()
    try:
        splits = json.loads(description.read_text("utf-8"))["splits"] if description.exists() else [""]
        for split in splits:
            state = json.loads((root / split / "state.json").read_text("utf-8"))
            files[split] = [os.path.join(root, split, part["filename"]) for part in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"{root} is no data set that save_to_disk of the library datasets wrote, or is damaged ({reason}); for "
            "Parquet files set dataset=parquet"
        ) from error
    return files


def _value(scalar: Any, file: str, row: int) -> Value:
    """The picture's content, or the array, of one cell."""
    value = scalar.as_py()
    if isinstance(value, dict):
        value = value.get("bytes") or _content_of(value.get("path"), file, row)
    if isinstance(value, bytes):
        return value
    array: npt.NDArray[Any] | None = None
    if isinstance(value, (list, int, float)):
        try:
            array = np.array(value)
        except ValueError:  # rows of several lengths
            array = None
    if array is None or array.dtype.kind not in "iuf" or array.ndim < 1:
        raise ValueError(f"row {row} of {file} is neither a picture's bytes nor an array of numbers")
    leaf = _leaf(scalar.type)
    return array.astype({"uint8": np.uint8}.get(leaf, np.float32))


def _leaf(kind: Any) -> str:
    while hasattr(kind, "storage_type"):
        kind = kind.storage_type
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return str(kind)


def _content_of(path: str | None, file: str, row: int) -> bytes:
    try:
        return Path(path or "").read_bytes()
    except OSError as error:
        raise ValueError(
            f"row {row} of {file} has no picture in it, only the path {path!r}, which cannot be read ({error.strerror})"
        ) from error


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """The names of integer labels, if the library `datasets` noted them in the file."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(features[label].get("names") or ())
    except (KeyError, TypeError, ValueError):
        return ()


def _unreadable(file: str, error: Exception) -> ValueError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    return ValueError(f"the data file {file} cannot be read ({reason}); it is missing, damaged or of another kind")
