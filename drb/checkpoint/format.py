"""One checkpoint on disk: a directory of safetensors and JSON files, and a manifest that vouches for them.

A *part* is a nested state under a name: its tensors in NAME.safetensors, the rest in NAME.json, either only if there is
any. The manifest, written last, has the size and CRC-32 of every file; a directory without one is no checkpoint.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from drb.checkpoint.seal import require_seal, sealed
from drb.checkpoint.tree import join, split

FORMAT = 1
MANIFEST = "manifest.json"
_BLOCK_BYTES = 1 << 22  # read at a time for a checksum


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message names the file."""


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of a file."""

    size_bytes: int
    crc32: str


@dataclass(frozen=True)
class Manifest:
    """step: optimisation steps taken; files: by name."""

    step: int
    world_size: int
    files: Mapping[str, FileRecord]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as one rank reads it. parts: by name, the states that were saved."""

    path: Path
    manifest: Manifest
    parts: Mapping[str, Any]


def rank_part(rank: int) -> str:
    """The name of what a rank saves for itself."""
    return f"rank-{rank:05d}"


# -- writing


def write_part(folder: Path, name: str, state: Any) -> dict[str, FileRecord]:
    """Write a nested state and force it to disk; what the manifest needs to know of each file."""
    tensors, skeleton = split(state)
    files: dict[str, FileRecord] = {}
    if tensors:
        path = folder / f"{name}.safetensors"
        save_file(tensors, path)
        _sync(path)
        files[path.name] = _record(path)
    is_flat = isinstance(skeleton, dict) and list(skeleton) == list(tensors) and len(tensors) > 0
    if not is_flat:  # plain named tensors need no more than their file
        path = folder / f"{name}.json"
        write_json(path, skeleton)
        files[path.name] = _record(path)
    return files


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The last file: from now on the directory is a checkpoint."""
    files = {
        name: {"bytes": record.size_bytes, "crc32": record.crc32} for name, record in sorted(manifest.files.items())
    }
    write_json(
        folder / MANIFEST,
        sealed({"format": FORMAT, "step": manifest.step, "world_size": manifest.world_size, "files": files}),
    )
    sync_folder(folder)


def write_json(path: Path, value: Any) -> None:
    """Whole, and on the disk when this returns."""
    with open(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make names that were added, renamed or deleted in a directory survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- reading


def read_checkpoint(path: Path, rank: int, shared: Iterable[str]) -> Checkpoint:
    """Check and read what one rank needs: its own part and those named.

    Raises:
        CheckpointError: a file that is missing, cut short or changed, or another format.
    """
    manifest = read_manifest(path)
    names = [rank_part(rank), *shared] if rank < manifest.world_size else list(shared)
    return Checkpoint(path, manifest, {name: _read_part(path, manifest, name) for name in names})


def read_manifest(folder: Path) -> Manifest:
    """Raises:
    CheckpointError: there is none, or not one of this format.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} is of checkpoint format {content['format']}, this drb reads format {FORMAT}")
        require_seal(content)
        files = {name: FileRecord(file["bytes"], file["crc32"]) for name, file in content["files"].items()}
        return Manifest(int(content["step"]), int(content["world_size"]), files)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise CheckpointError(f"{folder} is no checkpoint: it has no {MANIFEST}") from None
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def verify(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Raises:
    CheckpointError: naming the first of these files that is not as it was written.
    """
    for name in names:
        path, expected = folder / name, manifest.files[name]
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if path.stat().st_size != expected.size_bytes:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, {expected.size_bytes} were written: it was cut short"
            )
        if _checksum(path) != expected.crc32:
            raise CheckpointError(f"{path} has changed since it was written: its checksum is wrong")


def _read_part(folder: Path, manifest: Manifest, name: str) -> Any:
    tensor_file, json_file = f"{name}.safetensors", f"{name}.json"
    own = [file for file in (tensor_file, json_file) if file in manifest.files]
    if not own:
        raise CheckpointError(f"{folder / MANIFEST} lists neither {tensor_file} nor {json_file}")
    verify(folder, manifest, own)
    try:
        tensors = load_file(folder / tensor_file) if tensor_file in own else {}
        if json_file not in own:
            return tensors
        return join(tensors, json.loads((folder / json_file).read_text()))
    except (SafetensorError, UnicodeDecodeError, json.JSONDecodeError, KeyError) as error:
        raise CheckpointError(f"{folder / own[0]} does not hold what its name says: {error}") from None


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, _checksum(path))


def _checksum(path: Path) -> str:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
