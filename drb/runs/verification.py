"""Checks that a checkpoint is intact: every file as it was written, and its content consistent.

An error names the file and the field in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drb.buffer.record import SAMPLE_ID
from drb.checkpoint.encryption import Key
from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.finding import SHARED
from drb.checkpoint.format import MANIFEST, rank_part, read_manifest, read_part, require_key, verify_files
from drb.checkpoint.shards import StoredRows
from drb.types import Int64Array


@dataclass(frozen=True)
class Verified:
    """What was checked; `exemplars` counts those of all ranks."""

    files: int
    bytes: int
    ranks: int
    exemplars: int


def verify(path: Path, key: Key | None = None) -> Verified:
    """Read and check the whole checkpoint.

    Raises:
        CheckpointError: naming the file, and the field if its content is wrong.
    """
    manifest = read_manifest(path)
    require_key(path, manifest, key)
    verify_files(path, manifest, manifest.files)
    if manifest.world_size < 1:
        raise CheckpointError(f"{path / MANIFEST}: world_size is {manifest.world_size}")
    for part in SHARED:
        read_part(path, manifest, part)
    exemplars = 0
    for rank in range(manifest.world_size):
        name = rank_part(rank)
        state = read_part(path, manifest, name, key, check_rows=False)  # they were just checked
        try:
            exemplars += _check_rank(state)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            if isinstance(error, CheckpointError):
                raise
            detail = str(error) if isinstance(error, ValueError) else f"{error!r} is missing or of another kind"
            raise CheckpointError(f"{path / name}.safetensors: {detail}") from None
    size = sum(record.size_bytes for record in manifest.files.values())
    return Verified(len(manifest.files), size, manifest.world_size, exemplars)


def _check_rank(state: Mapping[str, Any]) -> int:
    """The number of exemplars in a rank's state. Raises ValueError naming a field that is wrong."""
    rehearsal = state.get("rehearsal")
    if rehearsal is None or "buffer" not in rehearsal:
        return 0
    buffer, where = rehearsal["buffer"], "rehearsal/buffer"
    rows, columns, slots = buffer["rows"], buffer["columns"], buffer["staged"]["slots"]
    size, ids = int(buffer["size"]), columns["sample_id"]
    if isinstance(rows, StoredRows):
        rows.require_reachable(f"{where}/rows")
    for name, column in columns.items():
        if len(column) != len(ids):
            raise ValueError(f"{where}/columns/{name} has {len(column)} values, sample_id has {len(ids)}")
    if len(rows) != size + len(slots):
        raise ValueError(f"{where}/rows has {len(rows)} rows, size and staged minibatch say {size + len(slots)}")
    if len(np.unique(slots)) != len(slots) or (len(slots) and not 0 <= slots.min() <= slots.max() < len(ids)):
        raise ValueError(f"{where}/staged/slots names a slot twice, or one beyond the {len(ids)} that are taken")
    if len(ids) != len(np.union1d(np.arange(size), slots)):
        raise ValueError(f"{where}/columns/sample_id has {len(ids)} values for {size} slots and those staged")
    _require_distinct(ids, f"{where}/columns/sample_id")
    _require_same_ids(rows, ids, slots, size, where)
    return len(ids)


def _require_distinct(ids: Int64Array, field: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        twice = values[counts > 1]
        raise ValueError(f"{field}: sample {twice[0]} is stored {counts.max()} times ({len(twice)} such samples)")


def _require_same_ids(rows: StoredRows | Int64Array, ids: Int64Array, slots: Int64Array, size: int, where: str) -> None:
    """Check that each row's header has the id of its slot's column; for a staged row, the new one."""
    in_rows = rows.column(SAMPLE_ID) if isinstance(rows, StoredRows) else rows[:, SAMPLE_ID]
    expected = ids[np.concatenate((np.arange(size), slots))]
    is_replaced = np.isin(np.arange(size), slots)
    wrong = np.flatnonzero(in_rows != expected)
    wrong = wrong[(wrong >= size) | ~np.append(is_replaced, False)[np.minimum(wrong, size)]]
    if len(wrong):
        row = wrong[0]
        raise ValueError(f"{where}/rows: row {row} is of sample {in_rows[row]}, sample_id says {expected[row]}")
