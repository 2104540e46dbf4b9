"""Builds a cache by several processes together, in a folder of the user's choice, and goes on where it was killed.

    NAME.partial/    the files as they will be, of their final size; plan.json; and for each rank that has worked on it
                     done-R, the numbers of the blocks that it has written, and left-out-SPLIT-R, rows
    NAME.lock        held by the process that leads, so that two starts do not meet

A block is noted when it is on the disk, so whatever is noted is there. The ranks of a node share the work; each node
makes its own copy, on its own disk.

Letters: n samples of a split, B rows of a block.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from drb.data.cache.files import SPLITS, image_file, map_erased, open_cache, read_meta
from drb.data.cache.partial import numbers_in, read_what_can_be
from drb.data.cache.writing import marks_of, publish, sync, write_columns, write_header, write_meta
from drb.data.source import Dataset
from drb.distributed.agreement import gather_json, raise_on_all_ranks
from drb.distributed.waiting import PatientBarrier
from drb.distributed.world import World
from drb.machine import format_bytes
from drb.types import Int64Array

Say = Callable[[str], None]

_BLOCK_BYTES = 16 << 20  # gathered, written and noted at once: what a kill costs each process
_SAY_EVERY_S = 10.0
_NAMED_AT_MOST = 3  # samples that cannot be read


@dataclass(frozen=True)
class _Block:
    """Rows first … stop - 1 of a split."""

    split: str
    first: int
    stop: int


def build_together(
    folder: Path,
    dataset: Dataset,
    facts: Mapping[str, Any],
    world: World,
    timeout_s: float,
    say: Say,
    *,
    leave_out_broken: bool = False,
) -> Dataset:
    """The dataset, mapped from `folder`, which is built first unless it is there. Collective.

    Args:
        dataset: alike on all ranks.
        facts: what the folder's content depends on, JSON; alike on all ranks.
        timeout_s: how long a rank may go without a heartbeat.
        say: told, in lines, how far it is.
        leave_out_broken: samples that cannot be read are left blank and marked as erased, so that nothing ever shows
            them; otherwise they end the prefill once all others are there.
    Raises:
        ValueError: on all ranks: the folder holds something else, is in use or cannot be written, there is no room, or
            samples cannot be read. PeerError: a rank died or stalled.
    """
    barrier = PatientBarrier(world.world_size, timeout_s)

    def together(stage: str, act: Callable[[], Any]) -> Any:
        """Do something on every rank; if it fails on some, fail on all."""
        result, error = None, None
        try:
            result = act()
        except ValueError as failure:
            error = str(failure)
        except OSError as failure:
            error = f"{folder} cannot be written ({failure.strerror or failure})"
        barrier.wait(stage)
        raise_on_all_ranks(f"drb/prefill/{stage}", error, world, barrier.group)
        return result

    nodes = [world.node] if world.world_size == 1 else gather_json(world.node, barrier.group)
    ranks = [rank for rank, node in enumerate(nodes) if node == world.node]
    build = _Build(folder, dataset, dict(facts), world.rank, ranks, say if world.is_main else _silent)
    try:
        together("begin", build.begin)
        together("plan", build.plan)
        together("write", partial(build.write, leave_out_broken))
        together("end", build.finish)
    finally:
        build.release()
    found: Dataset | None = together("open", partial(open_cache, folder))
    if found is None:
        raise ValueError(f"{folder} has vanished; start again")
    return found


class _Build:
    """One process's part of the work. ranks: those of its node; the first leads."""

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        facts: dict[str, Any],
        rank: int,
        ranks: list[int],
        say: Callable[..., None],
    ) -> None:
        self._folder, self._partial = folder, folder.with_name(f"{folder.name}.partial")
        self._dataset, self._facts, self._say = dataset, facts, say
        self._rank, self._ranks, self._leads = rank, ranks, rank == ranks[0]
        self._lock: IO[str] | None = None
        self._sources = {"train": dataset.train, "test": dataset.test}
        size = max(1, _BLOCK_BYTES // dataset.sample_bytes)
        self._blocks = [
            _Block(split, first, min(first + size, len(self._sources[split])))
            for split in SPLITS
            for first in range(0, len(self._sources[split]), size)
        ]
        self._is_there = False  # on this node; another one may have work left, and all ranks go through all stages
        self._pending: list[int] = []

    def begin(self) -> None:
        """See whether the folder is there already; if not, the leading rank prepares what is built."""
        if (meta := read_meta(self._folder)) is not None:
            if _as_json(meta["facts"]) != _as_json(self._facts):
                raise ValueError(
                    f"{self._folder} was made from other data, or with other settings; choose another folder or delete "
                    "it"
                )
            self._is_there = True
            return
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise ValueError(f"{self._folder} is there already and is no prefilled folder; choose another name")
        if self._leads:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._prepare()

    def plan(self) -> None:
        """Find what is left to do. Nobody writes yet, so all ranks of the node find the same."""
        if self._is_there:
            return
        done = set(numbers_in(self._partial, "done"))
        left = [number for number in range(len(self._blocks)) if number not in done]
        self._pending = left[self._ranks.index(self._rank) :: len(self._ranks)]

    def write(self, leave_out_broken: bool) -> None:
        """Write this rank's blocks, all that can be read."""
        if self._is_there:
            return
        broken: list[str] = []
        done = self._partial / f"done-{self._rank}"
        if done.exists():
            os.truncate(done, done.stat().st_size // 8 * 8)
        files = {split: image_file(self._partial, split).open("r+b") for split in SPLITS}
        try:
            with done.open("ab") as note:
                for number in self._with_progress():
                    block = self._blocks[number]
                    found = self._write_block(files[block.split], block, leave_out_broken)
                    broken += found
                    if not found or leave_out_broken:
                        note.write(np.int64(number).tobytes())
                        note.flush()
        finally:
            for file in files.values():
                file.close()
        if broken and not leave_out_broken:
            more = f", and {len(broken) - _NAMED_AT_MOST} more" if len(broken) > _NAMED_AT_MOST else ""
            raise ValueError(
                f"{'; '.join(broken[:_NAMED_AT_MOST])}{more}; all others are there: mend the data, or give the same "
                "command with --leave-out-broken"
            )

    def finish(self) -> None:
        """Give the folder its name; on the leading rank."""
        if self._is_there or not self._leads:
            return
        num_left_out = 0
        for split, source in self._sources.items():
            write_columns(self._partial, split, source)
            marks_of(self._folder, split, source.sample_ids, self._facts)
            left_out = sorted(set(numbers_in(self._partial, f"left-out-{split}")))
            self._blank(split, self._mark(split, left_out))
            num_left_out += len(left_out)
        for path in [*self._partial.glob("done-*"), *self._partial.glob("left-out-*"), self._partial / "plan.json"]:
            path.unlink()
        shutil.rmtree(self._folder, ignore_errors=True)  # empty
        write_meta(self._partial, self._dataset, self._facts)
        publish(self._partial, self._folder)
        if num_left_out:
            self._say(f"{num_left_out} samples cannot be read and are left out")

    def release(self) -> None:
        """Let others fill the folder."""
        if self._lock is not None:
            self._lock.close()

    def _take_lock(self) -> None:
        self._lock = self._folder.with_name(f"{self._folder.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process makes {self._folder} at the moment; wait for it") from None

    def _prepare(self) -> None:
        """Make files of their final size, unless what is there can be gone on with."""
        data = self._dataset.identity.to_json()  # with the times of files: half of them may have been written anew
        plan = _as_json({"facts": self._facts, "data": data, "blocks": len(self._blocks)})
        path = self._partial / "plan.json"
        if path.exists() and path.read_text("utf-8") == plan:
            done = len(set(numbers_in(self._partial, "done")))
            self._say(f"going on with {self._folder}: {done} of {len(self._blocks)} parts are there")
            return
        if self._partial.exists():
            self._say(f"the data has changed since {self._partial} was begun: it is made anew")
            shutil.rmtree(self._partial)
        size = sum(len(source) for source in self._sources.values()) * self._dataset.sample_bytes
        free = shutil.disk_usage(self._folder.parent).free
        self._say(f"making {self._folder}: {format_bytes(size)}, {format_bytes(free)} free")
        if size > free:
            raise ValueError(f"{self._folder} needs {format_bytes(size)}, {format_bytes(free)} are free on its disk")
        self._partial.mkdir()
        for split, source in self._sources.items():
            with image_file(self._partial, split).open("wb") as file:
                write_header(file, self._dataset, len(source))
                if count := len(source) * self._dataset.sample_bytes:
                    os.posix_fallocate(file.fileno(), file.tell(), count)
        path.write_text(plan, "utf-8")

    def _write_block(self, file: IO[bytes], block: _Block, leave_out_broken: bool) -> list[str]:
        """Write the samples of a block; what is wrong with those that cannot be read."""
        source, rows = self._sources[block.split], np.arange(block.first, block.stop)
        images, broken = read_what_can_be(source, rows)
        size = self._dataset.sample_bytes
        header = os.fstat(file.fileno()).st_size - len(source) * size
        for row, image in images:
            os.pwrite(file.fileno(), image, header + row * size)
        os.fdatasync(file.fileno())
        if broken and leave_out_broken:
            with (self._partial / f"left-out-{block.split}-{self._rank}").open("ab") as note:
                note.write(np.array(list(broken), np.int64).tobytes())
        return list(broken.values())

    def _with_progress(self) -> Iterator[int]:
        """This rank's blocks; rank 0 says now and then how far its node is."""
        start, last = time.monotonic(), time.monotonic()
        first = len(set(numbers_in(self._partial, "done"))) if self._leads else 0
        for number in self._pending:
            yield number
            now = time.monotonic()
            if self._leads and now - last > _SAY_EVERY_S:
                done, last = len(set(numbers_in(self._partial, "done"))), now
                left_s = (now - start) / max(1, done - first) * (len(self._blocks) - done)
                self._say(f"{done / len(self._blocks):.0%} of {self._folder}, {left_s:.0f} s left")

    def _mark(self, split: str, rows: list[int]) -> Int64Array:
        """Mark rows as erased, so that nothing ever shows them; all that are marked, int64."""
        erased = map_erased(self._folder, split, len(self._sources[split]), "r+")
        erased[rows] = True
        mapped = erased.base
        assert isinstance(mapped, np.memmap)
        mapped.flush()
        return np.flatnonzero(erased)

    def _blank(self, split: str, rows: Int64Array) -> None:
        """Zero rows of a split."""
        size, path = self._dataset.sample_bytes, image_file(self._partial, split)
        with path.open("r+b") as file:
            header = os.fstat(file.fileno()).st_size - len(self._sources[split]) * size
            for row in rows.tolist():
                os.pwrite(file.fileno(), bytes(size), header + row * size)
            sync(file.fileno())


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _silent(line: str) -> None:
    pass
