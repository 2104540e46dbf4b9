"""The ranks' own states of a checkpoint, to look at, to deal out to another number of ranks, or to change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drb.checkpoint.directory import replace_folder, unfinished
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
    """What each rank saved for itself, in the order of ranks.

    state["rehearsal"] is what `Rehearsal.state_dict` gave (None without a rehearsal), but its buffer's `rows` are lazy:
    `drb.checkpoint.StoredRows`, with `len`, `shape` and indexing by rows, which reads only what is asked for.

    Args:
        ranks: only those.
        check_rows: compare the checksums of the rows' files, too, which means to read all of them.
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
    """Replace a checkpoint by one with other rank states, atomically: killed at any moment, one of the two is there.

    Nothing of the old ranks' files is linked: all rows that stay are written anew. One process does it, while no run
    uses the directory.

    Args:
        transform: (rank, its state, as `read_rank_states` gives it) -> the state to store.
        key: the checkpoint's, if it is encrypted; the new one is, too.
    Raises:
        CheckpointError: as `read_rank_states`.
    """
    manifest = read_manifest(path)
    require_key(path, manifest, key)
    key = key if manifest.key_check is not None else None
    working = unfinished(path)
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
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
    replace_folder(path)


def _with_lazy_rows(state: dict[str, Any]) -> dict[str, Any]:
    """A buffer's rows that were made an array belong into a file of rows again."""
    rehearsal = state.get("rehearsal") or {}
    buffer = rehearsal.get("buffer") or {}
    if not isinstance(buffer.get("rows"), np.ndarray):
        return state
    rows = StoredRows.of(buffer["rows"])
    return {**state, "rehearsal": {**rehearsal, "buffer": {**buffer, "rows": rows}}}
