"""Removes samples from all checkpoints of a run.

Each checkpoint is replaced by one in new files, because files of rows also contain what has been evicted since they
were written. If killed, every checkpoint is either old or new, and doing it again finishes the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from drb.checkpoint import (
    CheckpointDirectory,
    Checkpointer,
    CheckpointError,
    Key,
    RunLock,
    read_rank_states,
    rewrite_checkpoint,
)
from drb.data.cache import erase, read_run_file
from drb.rehearsal.selection import SampleIds, Where, as_ids
from drb.rehearsal.state.forget import deny_in_state, forget_in_state, ids_in_state
from drb.runs.forget_prefilled import Prefilled
from drb.types import Int64Array


@dataclass(frozen=True)
class Purged:
    """What was removed.

    Attributes:
        sample_ids: all ids that were named or matched, ascending.
        checkpoints: the checkpoints that were rewritten.
        removed: the number of stored exemplars, of all ranks and checkpoints together: a sample that is stored in two
            checkpoints counts twice.
        num_named: the number of distinct ids that were named; the others were matched.
        erased: the number of samples erased from the cache of the data set, if the run read one.
        prefilled: the prefilled folder that the run draws from, if any; the run draws these samples from it no more.
        still_there: how many of them that folder still holds, for other runs.
    """

    sample_ids: Int64Array
    checkpoints: Sequence[Path]
    removed: int
    num_named: int = 0
    erased: int = 0
    prefilled: Path | None = None
    still_there: int = 0


def forget_in_run(
    run_dir: Path,
    sample_ids: SampleIds | None = None,
    *,
    where: Where | None = None,
    key: Key | None = None,
    erase_cache: bool = True,
    dry_run: bool = False,
) -> Purged:
    """Remove samples from everything that a stopped run keeps, and deny them when it goes on.

    This covers every checkpoint and the cache of the data set, if the run read one. Other runs that read the same cache
    go without these samples, too.

    Args:
        where: conditions on fields (`Where`); what matches in any checkpoint, or in the prefilled folder, is removed
            from all checkpoints and denied.
        key: the key of encrypted checkpoints.
        erase_cache: False leaves the cache as it is.
        dry_run: change nothing, and return what would be removed.
    Raises:
        ValueError: the run is in progress or has no checkpoints, a checkpoint is damaged, or the selection is wrong.
    """
    if not (run_dir / "checkpoints").is_dir():
        raise ValueError(f"{run_dir} has no checkpoints: it is no run directory, or its run has not saved anything yet")
    lock = RunLock(run_dir, "drb forget")
    try:
        folder = CheckpointDirectory(run_dir / "checkpoints", keep_last=1)
        if not dry_run:
            folder.clean(strict=True)
        checkpoints = folder.checkpoints()
        if not checkpoints:
            raise ValueError(f"{run_dir} has no checkpoints: its run has not saved anything yet")
        prefilled = Prefilled.of(run_dir)
        matching = None if prefilled is None or where is None else prefilled.matching(where)
        purged = forget_in_checkpoints(checkpoints, as_ids(sample_ids), where, key, matching, dry_run=dry_run)
        if prefilled is not None:
            purged = replace(purged, prefilled=prefilled.folder, still_there=prefilled.count(purged.sample_ids))
        if not erase_cache or cache_of_run(run_dir) is None:
            return purged
        of_data = purged.sample_ids[purged.sample_ids >= 0]  # a data set numbers its samples from 0 on
        return replace(purged, erased=erase(run_dir, of_data, dry_run=dry_run))
    finally:
        lock.release()


@dataclass(frozen=True)
class Cache:
    """The cache of images that a run reads, which other runs may read, too.

    original: the run directory that this one was copied from, if it was.
    """

    path: Path
    original: Path | None


def cache_of_run(run_dir: Path) -> Cache | None:
    """The cache that a run has read, or None."""
    known = read_run_file(run_dir)
    if known is None or known.cache is None:
        return None
    is_copy = known.run_dir.exists() and not known.run_dir.samefile(run_dir)
    return Cache(known.cache, known.run_dir if is_copy else None)


def forget_in_checkpoints(
    paths: Sequence[Path],
    sample_ids: Int64Array,
    where: Where | None,
    key: Key | None,
    matching: Int64Array | None = None,
    *,
    dry_run: bool = False,
) -> Purged:
    """Do what `forget_in_run` does to these checkpoints, which no other process may be using.

    matching: ids for which `where` holds outside of the checkpoints.
    """
    num_named = len(np.unique(sample_ids))
    if where is not None:
        states = [state for path in paths for state in _rehearsals(path, key)]
        found = [ids_in_state(state, where) for state in states]
        found += [_denied(state) for state in states]  # what an earlier attempt that was cut short had found
        found += [] if matching is None else [matching]
        sample_ids = np.unique(np.concatenate([sample_ids, *found]))
    rewritten, removed = [], 0
    for path in paths:
        states = _rehearsals(path, key)
        if all(np.isin(sample_ids, _denied(state)).all() for state in states):
            continue  # they were forgotten before, and a checkpoint holds nothing that it denies
        stored = [np.count_nonzero(np.isin(_stored(state), sample_ids)) for state in states]
        held = any(np.isin(ids_in_state(state), sample_ids).any() for state in states)
        change = forget_in_state if held else deny_in_state
        if not dry_run:
            rewrite_checkpoint(path, lambda rank, own: _changed(own, change, sample_ids), key=key)  # noqa: B023
        rewritten.append(path)
        removed += sum(map(int, stored))
    return Purged(sample_ids, rewritten, removed, num_named)


class CheckpointPurge:
    """A `ForgetObserver` that removes from a run's checkpoints what its rehearsal forgets."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer

    def settle(self) -> None:
        self._checkpointer.settle()

    def forget(self, sample_ids: Int64Array, where: Where | None) -> Int64Array:
        def purge(folder: CheckpointDirectory, key: Key | None) -> Int64Array:
            return forget_in_checkpoints(folder.checkpoints(), sample_ids, where, key).sample_ids

        ids: Int64Array = self._checkpointer.alone(purge, "the samples could not be removed from all checkpoints")
        return ids


def _rehearsals(path: Path, key: Key | None) -> list[dict[str, Any]]:
    states = [own.get("rehearsal") for own in read_rank_states(path, key=key, check_rows=False)]
    found = [state for state in states if state is not None]
    if not found:
        raise CheckpointError(f"{path} is of a run without a rehearsal: it holds no samples")
    return found


def _changed(own: dict[str, Any], change: Any, sample_ids: Int64Array) -> dict[str, Any]:
    return {**own, "rehearsal": change(own["rehearsal"], sample_ids)}


def _denied(state: dict[str, Any]) -> Int64Array:
    return np.asarray(state.get("denied", ()), np.int64)


def _stored(state: dict[str, Any]) -> Int64Array:
    return np.asarray(state["buffer"]["columns"]["sample_id"] if "buffer" in state else (), np.int64)
