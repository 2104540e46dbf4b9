"""How a checkpoint is written: what training waits for, and what happens while training goes on.

The training thread takes the state apart and copies its tensors into memory that is reused. It does not copy a buffer's
rows: these are read later, through a guard (`drb.buffer.snapshot`). One thread per rank does the rest, and it alone
uses the coordinator while a write is in flight. Every rank writes its files; when all of them are on the disk, rank 0
writes the manifest and gives the directory its name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from drb.checkpoint.coordinator import Coordinator
from drb.checkpoint.directory import CheckpointDirectory, unfinished
from drb.checkpoint.encryption import Key
from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.files import FileRecord
from drb.checkpoint.finding import CONSTANT, OWN, SHARED, StateParts
from drb.checkpoint.format import Manifest, rank_part, write_manifest, write_part
from drb.checkpoint.memory import StateMemory
from drb.checkpoint.shards import RowShards
from drb.checkpoint.tree import Split, split
from drb.distributed.sharing import await_folder
from drb.distributed.world import World


@dataclass
class Tally:
    """What checkpoints have cost so far.

    Attributes:
        pause_seconds: how long training on this rank waited.
        bytes: newly written bytes, of all ranks.
    """

    count: int = 0
    pause_seconds: float = 0.0
    write_seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class _Job:
    """One checkpoint of this rank.

    Attributes:
        parts: what it writes, by name.
        published: called on every rank before the checkpoint gets its name.
    """

    name: str
    step: int
    parts: Mapping[str, Split]
    published: Callable[[], None]


@dataclass
class CheckpointWriter:
    """One per rank; every rank calls `start` and `wait` in the same order."""

    folder: CheckpointDirectory
    coordinator: Coordinator
    world: World
    key: Key | None = None
    incremental: bool = True
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._background = Background("drb-checkpoint")
        self._memory = StateMemory()
        self._shards: dict[str, RowShards] = {}
        self.needs_memory = self.world.device.type == "cuda"  # which takes long to lock, and kernels long to load

    @property
    def has_failed(self) -> bool:
        """Whether `wait` will raise; it does so on all ranks, once one knows."""
        return self._background.has_failed

    def wait(self) -> None:
        """Wait until the write in flight is done.

        Raises:
            CheckpointError: it failed; alike on all ranks.
        """
        self._background.wait()

    def linger(self, limit_s: float) -> None:
        """Give the write in flight some time to end, while the run fails for another reason."""
        self._background.linger(limit_s)

    def start(self, name: str, step: int, state: StateParts, published: Callable[[], None]) -> None:
        """Wait for the previous write, copy what training will change, and start writing in the background."""
        self.wait()
        parts, named = self._taken_apart(state)
        copies = self._memory.copy(named, state.get(CONSTANT, ()))
        parts = {
            part: replace(p, tensors={name: copies[f"{part}|{name}"] for name in p.tensors})
            for part, p in parts.items()
        }
        job = _Job(name, step, parts, published)
        self._background.start(lambda: self._write(job))

    def reserve_memory(self, state: StateParts) -> str:
        """Copy such a state once, so that its first checkpoint takes no longer than others.

        Returns:
            A line that says what memory the copies take.
        """
        parts, named = self._taken_apart(state)
        line = self._memory.reserve(named, state.get(CONSTANT, ()))
        self.needs_memory = False
        for part in parts.values():
            for rows in part.rows.values():
                rows.close()
        return line

    def erase_memory(self) -> None:
        """Zero the memory that contains copies of samples, after the write in flight."""
        self.wait()
        self._memory.erase()

    def _taken_apart(self, state: StateParts) -> tuple[dict[str, Split], dict[str, Tensor]]:
        """The parts that this rank writes, and their tensors by part and name."""
        parts = {rank_part(self.world.rank): split(state[OWN])}
        if self.world.is_main:
            parts |= {part: split(state[part]) for part in SHARED}
        return parts, {f"{part}|{name}": tensor for part, p in parts.items() for name, tensor in p.tensors.items()}

    def _write(self, job: _Job) -> None:
        start = time.perf_counter()
        try:
            self._memory.wait()
            is_main, name = self.world.is_main, job.name
            self.coordinator.run_on_all(lambda: self.folder.begin(name) if is_main else None, f"begin of {name}")
            answers = self.coordinator.run_on_all(lambda: self._write_parts(job), f"writing of {name}")
            files = {name: record for written, _ in answers for name, record in written.items()}
            manifest = Manifest(job.step, self.world.world_size, files, self.key.check if self.key else None)
            self.coordinator.run_on_all(lambda: self._publish(job, manifest) if is_main else None, f"end of {name}")
        finally:
            for rows in _rows_of(job):
                rows.close()
        self.tally.count += 1
        self.tally.bytes += sum(new_bytes for _, new_bytes in answers)
        self.tally.write_seconds += time.perf_counter() - start

    def _write_parts(self, job: _Job) -> tuple[dict[str, FileRecord], int]:
        final = self.folder.root / job.name
        folder = unfinished(final)
        if not await_folder(folder):
            raise CheckpointError(
                f"{folder} is not there on rank {self.world.rank}: checkpoints need a run directory that all ranks "
                "share (hydra.run.dir), or checkpoint.enabled=false"
            )
        files: dict[str, FileRecord] = {}
        new_bytes = 0
        for name, part in job.parts.items():
            shards = self._shards if self.incremental else {}
            written = write_part(folder, name, part, final=final, key=self.key, shards=shards)
            files |= written.files
            new_bytes += written.new_bytes
        job.published()
        return files, new_bytes

    def _publish(self, job: _Job, manifest: Manifest) -> None:
        write_manifest(unfinished(self.folder.root / job.name), manifest)
        self.folder.publish(job.name)


def _rows_of(job: _Job) -> list[Any]:
    return [rows for part in job.parts.values() for rows in part.rows.values()]


class Background:
    """Runs one piece of work at a time on a thread. What the work raises is raised where its owner waits for it.

    The threads are daemons, so work that waits for a dead peer keeps no process alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether `wait` will raise."""
        return self._error is not None

    def start(self, work: Callable[[], None]) -> None:
        """Start work, after waiting for the previous one."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until no work is in progress. Raises what the work raised, every time."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def linger(self, limit_s: float) -> None:
        """Wait at most limit_s and raise nothing, because the owner is failing already."""
        if self._thread is not None:
            self._thread.join(limit_s)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # the owner's thread raises it
            self._error = error
