"""One checkpoint on disk: a directory of safetensors and JSON files, and a manifest that vouches for them.

A *part* is a named nested state. Its tensors are in NAME.safetensors and the rest is in NAME.json; either exists only
if needed. Rows are in shards (`drb.checkpoint.shards`), which NAME.rows.json lists. With a key, the tensors and rows of
ranks are encrypted, because they contain samples. The manifest is written last and contains the size and CRC-32 of
every file; a directory without a manifest is no checkpoint.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drb.checkpoint.encryption import CIPHER, ENCRYPTED, Key
from drb.checkpoint.errors import CheckpointError, UnusableError
from drb.checkpoint.files import (
    TENSORS,
    FileRecord,
    first_line,
    open_rows,
    read_json,
    read_tensors,
    require_unchanged,
    sync_folder,
    write_json,
    write_tensors,
)
from drb.checkpoint.shards import RowShards, StoredRows
from drb.checkpoint.tree import Split, join

FORMAT = 2
MANIFEST = "manifest.json"
_RANK = "rank-"
_TABLE = ("shard", "position")  # of each row, among the tensors


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        step: optimisation steps taken.
        files: the files' records by name.
        key_check: identifies the key that files are encrypted with; None without encryption.
    """

    step: int
    world_size: int
    files: Mapping[str, FileRecord]
    key_check: str | None = None


@dataclass(frozen=True)
class Written:
    """The files of a part, and how many of their bytes are new."""

    files: Mapping[str, FileRecord]
    new_bytes: int


def rank_part(rank: int) -> str:
    """The name of what a rank saves for itself."""
    return f"{_RANK}{rank:05d}"


# -- writing


def write_part(
    folder: Path, name: str, state: Split, *, final: Path, key: Key | None, shards: dict[str, RowShards] | None = None
) -> Written:
    """Write a state that was taken apart, and sync it to the disk.

    Args:
        final: the path that the folder will get.
        shards: shards that were written before, by the name of their rows; updated here.
    """
    shards = {} if shards is None else shards
    key = key if name.startswith(_RANK) else None
    tensors, new_bytes = dict(state.tensors), 0
    files: dict[str, FileRecord] = {}
    is_flat = isinstance(state.skeleton, dict) and list(state.skeleton) == list(tensors) and len(tensors) > 0
    tables: dict[str, Any] = {}
    for path, rows in state.rows.items():
        table = shards.setdefault(path, RowShards(name)).write(folder, final, rows, key)
        tensors |= {f"{path}/{column}": torch.from_numpy(getattr(table, column)) for column in _TABLE}
        tables[path] = {"words": rows.shape[1], "shards": list(table.shards)}
        files |= table.files
        new_bytes += table.new_bytes - sum(record.size_bytes for record in table.files.values())
    if tables:
        files[f"{name}.rows.json"] = write_json(folder / f"{name}.rows.json", tables)
    if tensors:
        files |= write_tensors(folder, name, tensors, key)
    if not is_flat:  # plain named tensors need no more than their file
        files[f"{name}.json"] = write_json(folder / f"{name}.json", state.skeleton)
    return Written(files, new_bytes + sum(record.size_bytes for record in files.values()))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the directory a checkpoint."""
    files = {
        name: {"bytes": record.size_bytes, "crc32": record.crc32} for name, record in sorted(manifest.files.items())
    }
    content: dict[str, Any] = {"format": FORMAT, "step": manifest.step, "world_size": manifest.world_size}
    if manifest.key_check is not None:
        content["encryption"] = {"cipher": CIPHER, "key_check": manifest.key_check}
    content["files"] = files
    write_json(folder / MANIFEST, {"crc32": _checksum(content), **content})
    sync_folder(folder)


# -- reading


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: there is none, it has another format, or it is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        has_run = (folder / "summary.json").exists() or (folder / "config.yaml").exists()
        if not folder.exists():
            raise CheckpointError(f"{folder} is no checkpoint: there is nothing of that name")
        raise CheckpointError(
            f"{folder} is a run that has saved no checkpoint (checkpoint.enabled, checkpoint.at_end)"
            if has_run
            else f"{folder} is no checkpoint: it has no {MANIFEST}"
        )
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise UnusableError(f"{path} is of checkpoint format {content['format']}, this drb reads format {FORMAT}")
        if content.pop("crc32") != _checksum(content):
            raise CheckpointError(f"{path} has changed since it was written: its checksum is wrong")
        files = {name: FileRecord(file["bytes"], file["crc32"]) for name, file in content["files"].items()}
        key_check = content["encryption"]["key_check"] if "encryption" in content else None
        manifest = Manifest(content["step"], content["world_size"], files, key_check)
        _check_manifest(manifest)
        return manifest
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None


def _check_manifest(manifest: Manifest) -> None:
    """Raise ValueError for values that drb does not write: a right checksum does not make them right."""
    for name, value, least in (("step", manifest.step, 0), ("world_size", manifest.world_size, 1)):
        if type(value) is not int or not least <= value < 1 << 63:
            raise ValueError(f"{name} is {value!r:.40}")
    if manifest.key_check is not None and not isinstance(manifest.key_check, str):
        raise ValueError(f"key_check is {manifest.key_check!r:.40}")
    for name, record in manifest.files.items():
        if "/" in name or name.startswith(".") or "\0" in name:
            raise ValueError(f"a file is called {name!r:.80}")
        if type(record.size_bytes) is not int or record.size_bytes < 0 or not isinstance(record.crc32, str):
            raise ValueError(f"size and checksum of {name} are {record.size_bytes!r:.40} and {record.crc32!r:.40}")


def _checksum(content: Mapping[str, Any]) -> str:
    """The checksum of a manifest's own content."""
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def require_key(folder: Path, manifest: Manifest, key: Key | None) -> None:
    """Check that a key fits a checkpoint.

    Raises:
        CheckpointError: the checkpoint is encrypted, and not with this key.
    """
    if manifest.key_check is None:
        return
    if key is None:
        raise UnusableError(f"{folder} is encrypted; give the key that it was written with: checkpoint.key_file=PATH")
    if key.check != manifest.key_check:
        raise UnusableError(f"{folder} was encrypted with another key than the one in {key.source}")


def verify_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Compare the sizes and checksums of files with the manifest.

    Raises:
        CheckpointError: naming the first file that differs.
    """
    for name in names:
        require_unchanged(folder / name, manifest.files[name])


def read_part(folder: Path, manifest: Manifest, name: str, key: Key | None = None, *, check_rows: bool = True) -> Any:
    """The state that was written under this name; its rows are `StoredRows`, which read files on demand.

    Args:
        check_rows: whether to check the shards, too, which reads all of them.
    Raises:
        CheckpointError: a file is missing, cut short or changed, or cannot be decrypted.
    """
    own = [file for file in manifest.files if file.startswith(f"{name}.")]
    if not own:
        raise CheckpointError(f"{folder / MANIFEST} lists neither {name}{TENSORS} nor {name}.json")
    verify_files(folder, manifest, own if check_rows else [file for file in own if ".rows-" not in file])
    tensor_file = f"{name}{TENSORS}"
    sealed = tensor_file + ENCRYPTED
    try:
        tensors = {}
        if sealed in own or tensor_file in own:
            tensors = read_tensors(folder / (sealed if sealed in own else tensor_file), key)
        if f"{name}.json" not in own:
            return tensors
        tables = read_json(folder / f"{name}.rows.json") if f"{name}.rows.json" in own else {}
        rows = {path: _stored_rows(folder, path, table, tensors, manifest, key) for path, table in tables.items()}
        return join(Split(read_json(folder / f"{name}.json"), tensors, rows))
    except CheckpointError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError, RuntimeError) as error:
        raise CheckpointError(f"{folder / name}.* do not fit together: {first_line(error)}") from None


def _stored_rows(
    folder: Path, path: str, table: Mapping[str, Any], tensors: Mapping[str, Any], manifest: Manifest, key: Key | None
) -> StoredRows:
    for shard in table["shards"]:
        if shard not in manifest.files:
            raise CheckpointError(f"{folder / MANIFEST} does not list {shard}, which holds rows of {path}")
    openers = [partial(open_rows, folder / shard, key) for shard in table["shards"]]
    shard, position = (tensors[f"{path}/{column}"].numpy() for column in _TABLE)
    for column in (shard, position):
        if column.dtype != np.int64 or column.shape != (len(shard),):
            raise ValueError(f"the table of {path} has the shape {column.shape} and the dtype {column.dtype}")
    if type(table["words"]) is not int or not 0 < table["words"] < 1 << 40:
        raise ValueError(f"rows of {path} have {table['words']!r:.40} words")
    return StoredRows(openers, shard, position, table["words"])
