"""The ranks' own states in a checkpoint: to inspect them, to reshard them, or to change them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drb.checkpoint.directory import make_room, replace_folder, unfinished
from drb.checkpoint.encryption import Key
from drb.checkpoint.files import FileRecord
from drb.checkpoint.format import (
    Manifest,
    rank_part,
    read_manifest,
    read_part,
    require_key,
    write_manifest,
    write_part,
)
from drb.checkpoint.shards import StoredRows
from drb.checkpoint.tree import split


def read_rank_states(
    path: Path, *, key: Key | None = None, ranks: Sequence[int] | None = None, check_rows: bool = True
) -> list[dict[str, Any]]:
    """What each rank saved for itself, by rank.

    state["rehearsal"] is what `Rehearsal.state_dict` returned (None without rehearsal), except that the buffer's `rows`
    are lazy: an object with `len`, `shape` and indexing by rows that reads only what is asked for.

    Args:
        ranks: the ranks to read; all if None.
        check_rows: whether to compare the checksums of the files of rows, which reads all of them.
    Raises:
        CheckpointError: naming a file that is missing, damaged or cannot be decrypted.
    """
    manifest = read_manifest(path)
    require_key(path, manifest, key)
    chosen = range(manifest.world_size) if ranks is None else ranks
    return [read_part(path, manifest, rank_part(rank), key, check_rows=check_rows) for rank in chosen]


def rewrite_checkpoint(
    path: Path, transform: Callable[[int, dict[str, Any]], dict[str, Any]], *, key: Key | None = None
) -> None:
    """Replace a checkpoint atomically by one with changed rank states. If killed, one of the two is there.

    No file of the old ranks is linked: all rows that stay are written anew. Call it in one process while no run uses
    the directory.

    Args:
        transform: maps a rank and its state, as `read_rank_states` returns it, to the state to store.
        key: the checkpoint's, if it is encrypted; the new one is, too.
    Raises:
        CheckpointError: as `read_rank_states`.
    """
    manifest = read_manifest(path)
    require_key(path, manifest, key)
    key = key if manifest.key_check is not None else None
    working = unfinished(path)
    make_room(working)
    working.mkdir(mode=path.stat().st_mode & 0o777)
    files: dict[str, FileRecord] = {}
    for rank in range(manifest.world_size):
        name = rank_part(rank)
        state = transform(rank, read_part(path, manifest, name, key))
        files |= write_part(working, name, split(_with_lazy_rows(state)), final=path, key=key).files
    for name, record in manifest.files.items():
        if not name.startswith("rank-"):
            os.link(path / name, working / name)
            files[name] = record
    write_manifest(working, Manifest(manifest.step, manifest.world_size, files, manifest.key_check))
    replace_folder(path, strict=True)


def _with_lazy_rows(state: dict[str, Any]) -> dict[str, Any]:
    """Wrap a buffer's rows that are a plain array, so that they are written to a file of rows."""
    rehearsal = state.get("rehearsal") or {}
    buffer = rehearsal.get("buffer") or {}
    if not isinstance(buffer.get("rows"), np.ndarray):
        return state
    rows = StoredRows.of(buffer["rows"])
    return {**state, "rehearsal": {**rehearsal, "buffer": {**buffer, "rows": rows}}}
