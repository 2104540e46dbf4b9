"""The files of a checkpoint, JSON and safetensors: written as a stream with a running checksum, and synced to the disk.

The safetensors library reads these files, but does not write them: it needs the whole file in memory and holds the
interpreter's lock most of the time, which would stop training. The format (https://github.com/huggingface/safetensors)
is 8 bytes with the length of the header, the header (JSON, padded to 8 bytes), and the tensors' bytes without gaps.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor
from typing_extensions import Self

from drb.checkpoint.encryption import ENCRYPTED, Key, Sealer, decrypt_file
from drb.checkpoint.errors import CheckpointError
from drb.types import Int64Array

TENSORS = ".safetensors"
_ROWS = "rows"  # the one tensor of a file of rows
MOST_JSON_BYTES = 256 << 20  # the manifest of 4096 ranks takes 11 MB
_BLOCK_BYTES = 1 << 22  # read at a time for a checksum
_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class FileRecord:
    """The size and checksum of a file, as the manifest contains them."""

    size_bytes: int
    crc32: str


@contextlib.contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Add the path to an OSError that has none: a failing write reports why (a full disk) but not where."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


class FileWriter:
    """Writes a new file. When the context ends without an error, the file is on the disk and `record` is valid.

    In a directory that only the user may read, only the user may read the file.
    """

    def __init__(self, path: Path, sealer: Sealer | None = None) -> None:
        mode = 0o666 if path.parent.stat().st_mode & 0o077 else 0o600
        self._file = open(  # noqa: SIM115 - closed by __exit__
            path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, mode)
        )
        self._path = path
        self._sealer = sealer
        self._size = self._crc = 0

    @property
    def record(self) -> FileRecord:
        return FileRecord(self._size, f"{self._crc:08x}")

    def write(self, data: bytes | memoryview) -> None:
        for piece in (data,) if self._sealer is None else self._sealer.update(data):
            self._put(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with naming_file(self._path), self._file:
            if error is None:
                if self._sealer is not None:
                    self._put(self._sealer.finish())
                self._file.flush()
                os.fsync(self._file.fileno())

    def _put(self, data: bytes | memoryview) -> None:
        with naming_file(self._path):
            self._file.write(data)
        self._size += len(data)
        self._crc = zlib.crc32(data, self._crc)


# -- tensors


def write_tensors(folder: Path, stem: str, tensors: Mapping[str, Tensor], key: Key | None) -> dict[str, FileRecord]:
    """Write STEM.safetensors (.enc with a key) and return its name and record."""
    # as the library does: the largest elements first, so that each is aligned
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    shapes = {name: (_CODES[tensors[name].dtype], list(tensors[name].shape), tensors[name].nbytes) for name in names}
    return _write(folder, stem, shapes, (_bytes_of(tensors[name]) for name in names), key)


def write_rows(
    folder: Path, stem: str, num_rows: int, words: int, blocks: Iterable[Int64Array], key: Key | None
) -> dict[str, FileRecord]:
    """Write rows that come in blocks, int64 [any, words], and return the file's name and record; see `open_rows`."""
    shapes = {_ROWS: ("I64", [num_rows, words], num_rows * words * 8)}
    return _write(folder, stem, shapes, (block.reshape(-1).view(np.uint8).data for block in blocks), key)


def read_tensors(path: Path, key: Key | None) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        CheckpointError: it is no such file, or it cannot be decrypted.
    """
    try:
        return load(decrypt_file(path, key)) if is_encrypted(path.name) else load_file(path)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not hold what its name says: {first_line(error)}") from None


def open_rows(path: Path, key: Key | None) -> Int64Array:
    """The rows of a file, int64 [m, K] and read-only: memory-mapped, or decrypted into memory.

    Raises:
        CheckpointError: as `read_tensors`.
    """
    try:
        content = (
            np.frombuffer(decrypt_file(path, key), np.uint8)
            if is_encrypted(path.name)
            else np.memmap(path, np.uint8, "r")
        )
        start = 8 + int(content[:8].view("<u8")[0])
        entry = json.loads(content[8:start].tobytes())[_ROWS]
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end <= len(content) - start or len(entry["shape"]) != 2:
            raise ValueError(f"{_ROWS} lies beyond the file, or has the shape {entry['shape']}")
        rows: Int64Array = content[start + begin : start + end].view("<i8").reshape(entry["shape"])
        return rows
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not hold what its name says: {error!r}") from None


def is_encrypted(name: str) -> bool:
    return name.endswith(ENCRYPTED)


def _write(
    folder: Path,
    stem: str,
    shapes: Mapping[str, tuple[str, list[int], int]],
    pieces: Iterable[memoryview],
    key: Key | None,
) -> dict[str, FileRecord]:
    header: dict[str, Any] = {}
    begin = 0
    for name, (code, shape, size) in shapes.items():
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file_name = stem + TENSORS + (ENCRYPTED if key is not None else "")
    with FileWriter(folder / file_name, None if key is None else Sealer(key, file_name)) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            file.write(piece)
    return {file_name: file.record}


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


# -- the rest


def write_json(path: Path, value: Any) -> FileRecord:
    """Whole, and on the disk when this returns."""
    with FileWriter(path) as file:
        file.write(json.dumps(value, indent=1).encode() + b"\n")
    return file.record


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: it is no regular file, too large for what drb writes, or no JSON.
    """
    require_regular(path)
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise CheckpointError(f"{path} has {size} bytes, drb writes no more than {MOST_JSON_BYTES} of JSON")
    try:
        return json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:  # no JSON, no text, an integer of too many digits, nested too deeply
        raise CheckpointError(f"{path} does not hold what its name says: {first_line(error)}") from None


def require_regular(path: Path) -> None:
    """Check that there is a regular file, before it is opened: a pipe would make the reader wait for ever.

    Raises:
        CheckpointError: there is none, or it is something else.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} is missing") from None
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is no regular file")


def first_line(error: BaseException) -> str:
    """The type and the first line of an error's message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def sync_folder(folder: Path) -> None:
    """Sync a directory, so that names added, renamed or deleted in it survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a directory
            raise
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_unchanged(path: Path, expected: FileRecord) -> None:
    """Compare a file's size and checksum with its record.

    Raises:
        CheckpointError: they differ, or the file is missing.
    """
    require_regular(path)
    size = path.stat().st_size
    if size != expected.size_bytes:
        raise CheckpointError(f"{path} has {size} bytes, {expected.size_bytes} were written: it was cut short")
    if _checksum(path) != expected.crc32:
        raise CheckpointError(f"{path} has changed since it was written: its checksum is wrong")


def _checksum(path: Path) -> str:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
