"""Saves a run when a checkpoint is due, stops it on a signal, and finds the checkpoint that it resumes from.

All ranks write a checkpoint in parallel: each its own part, and rank 0 what is the same on all ranks. The directory
gets its name when every file is on the disk. Training goes on meanwhile (`drb.checkpoint.writing`); it waits for the
copy of what it will change and for the previous write, and at the end of a task or of the run for the write itself.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist
from typing_extensions import Self

from drb.checkpoint.coordinator import Coordinator
from drb.checkpoint.directory import CheckpointDirectory, checkpoint_name
from drb.checkpoint.encryption import Key, read_key
from drb.checkpoint.files import write_json
from drb.checkpoint.finding import Saved, StateParts, find_saved, read_saved
from drb.checkpoint.lock import RunLock, lock_run
from drb.checkpoint.saver import Saver
from drb.checkpoint.settings import CheckpointSettings
from drb.checkpoint.signals import StopSignals
from drb.checkpoint.votes import Ballot, Vote
from drb.checkpoint.writing import CheckpointWriter, Tally
from drb.distributed.failure import PeerError
from drb.distributed.world import World

MARKER = "INTERRUPTED"
_LINGER_S = 60.0
PATIENCE_S = 30.0  # for a process of this run that was killed, perhaps on another node


class Interrupted(SystemExit):
    """The run was told to stop, saved itself and can be resumed: exit code 75, "try again later" (EX_TEMPFAIL)."""

    def __init__(self, path: Path, signal_number: int) -> None:
        super().__init__(os.EX_TEMPFAIL)
        self.path = path
        self.signal_number = signal_number


class Checkpointer(Saver):
    """One per rank; its methods are collective. A context manager: leaving it by `Interrupted` waits for rank 0."""

    def __init__(
        self,
        settings: CheckpointSettings,
        run_dir: Path,
        world: World,
        *,
        signals: StopSignals,
        timeout_s: float = 600.0,
        ask_every_s: float = 0.2,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            run_dir: the same directory for all ranks.
            signals: the signals that stop the run, already installed.
            timeout_s: timeout of the votes on saving, and how long a rank may go without a heartbeat.
            ask_every_s: roughly how often ranks vote.
            say: called on rank 0 with lines for the user.
        """
        self._settings = settings
        self._run_dir = run_dir
        self._world = world
        self._signals = signals
        self._say = say or (lambda line: None)
        self._key = None if settings.key_file is None else read_key(settings.key_file)
        self._folder = CheckpointDirectory(run_dir / "checkpoints", settings.keep_last, private=settings.private)
        self._coordinator = Coordinator(world, timeout_s)
        self._writer = CheckpointWriter(
            self._folder, self._coordinator, world, key=self._key, incremental=settings.incremental
        )
        self._facts: Mapping[str, Any] = {}
        self._flush: Callable[[], Callable[[], None]] = lambda: lambda: None
        self._last_saved = ""
        self._lock: RunLock | None = None  # on rank 0, from `find` on
        self._next_periodic = self._period = settings.every_steps or math.inf
        self._next_save_at = self._time_of_next_save()
        self.next_step: float = math.inf
        several = world.world_size > 1
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)) if several else None
        self._ballot = Ballot(self._vote, group, every_s=ask_every_s)

    @property
    def seconds(self) -> float:  # type: ignore[override]
        """How long training on this rank has waited for checkpoints."""
        return self._writer.tally.pause_seconds

    @property
    def tally(self) -> Tally:
        """What checkpoints have cost, including the time before the run was resumed."""
        return self._writer.tally

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, Interrupted):
            # a launcher ends all ranks once one has ended: rank 0 may still be talking to MLflow
            self._coordinator.gather(None)
        elif isinstance(error, Exception) and not isinstance(error, PeerError):
            self._writer.linger(_LINGER_S)  # the peers' writers are threads, too, and may well be able to end it
        if self._lock is not None and (error is None or isinstance(error, Interrupted)):
            self._lock.release()  # otherwise a write may be in flight: the lock goes with the process

    def begin_run(self, facts: Mapping[str, Any], flush: Callable[[], Callable[[], None]]) -> None:
        """Call this when the run starts or resumes. It removes an earlier INTERRUPTED marker.

        Args:
            facts: JSON values that are saved beside the trainer's state.
            flush: starts writing what was logged and returns a function that waits for its end. A checkpoint gets its
                name only afterwards, so that a run that resumes from it misses nothing that was logged before.
        """
        self._facts, self._flush = facts, flush
        if self._world.is_main:
            try:
                (self._run_dir / MARKER).unlink(missing_ok=True)
            except OSError as error:
                self._say(f"{self._run_dir / MARKER} of an earlier start cannot be removed: {error.strerror}")

    # -- during training

    def begin_task(self, step: int) -> None:
        """Call this when training starts after `step` steps."""
        self._next_periodic = (step // self._period + 1) * self._period if self._period < math.inf else math.inf
        self._ballot.restart(step)
        self._plan()

    def visit(self, step: int, state: Callable[[], StateParts]) -> None:
        """Save if it is due. Call this after the optimisation step `next_step`, or after every step.

        Raises:
            Interrupted: saved, because a rank was told to stop.
            CheckpointError: the one before could not be saved; at the same step on all ranks.
        """
        if self._writer.needs_memory:
            line = self._writer.reserve_memory(state())
            if self._world.is_main:
                self._say(f"checkpoint: {line}")
        is_due = step >= self._next_periodic
        if is_due:
            self._next_periodic += self._period
        vote = self._ballot.visit(step) if step >= self._ballot.next_step else Vote()
        self._plan()
        if vote.failed:
            self.finish()
        if is_due or vote:
            self._save(step, state, vote.signal)

    def visit_boundary(self, step: int, state: Callable[[], StateParts], *, evaluated: bool) -> None:
        """The same as `visit`, before or after the evaluation of a task."""
        vote = self._ballot.now()
        if vote or (evaluated and self._settings.at_task_end):
            self._save(step, state, vote.signal, evaluated=evaluated)
            if evaluated:
                self.finish()

    def visit_end(self, step: int, state: Callable[[], StateParts]) -> None:
        """Save the end of the run, from which it may go on with more tasks, unless its last task's end was saved."""
        name = checkpoint_name(step, evaluated=True)
        if self._settings.at_end and not (self._folder.root / name).exists():
            self._save(step, state, 0, evaluated=True)
        self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if any.

        Raises:
            CheckpointError: it could not be saved; the same on all ranks.
        """
        start = time.perf_counter()
        self._writer.wait()
        self._writer.tally.pause_seconds += time.perf_counter() - start

    # -- going on

    def find(self, needs: Mapping[str, Any] | None = None) -> Saved | None:
        """The checkpoint to resume from, read and checked on every rank; None to start anew.

        Args:
            needs: the types of the facts that a checkpoint must have to be used, by name.
        Raises:
            CheckpointError: none can be used.
        """
        self._coordinator.run_on_all(self._open if self._world.is_main else lambda: None, failed="the run cannot start")
        settings, folder = self._settings, self._folder
        saved = find_saved(settings.resume, folder, self._coordinator, self._world, self._say, self._key, needs)
        if saved is not None:
            self._writer.tally = Tally(**saved.costs)
        return saved

    def find_of_all_ranks(self, saved: Saved) -> Saved:
        """The same checkpoint with the states of all ranks, `ranks`, also if there were as many. Collective."""
        return read_saved(saved.path, self._coordinator, self._world, self._key, of_all_ranks=True)

    def _open(self) -> None:
        if self._lock is None:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            self._lock = lock_run(self._run_dir, "a training run", patience_s=PATIENCE_S)
        self._folder.clean()

    # -- when samples must be forgotten

    def settle(self) -> None:
        """Wait for the write in flight, and zero the memory in which states were copied."""
        self.finish()
        self._writer.erase_memory()

    def alone(self, action: Callable[[CheckpointDirectory, Key | None], Any], failed: str) -> Any:
        """Run the action on rank 0 with the run's checkpoints, while no rank writes; returns its result on all ranks.

        Raises:
            CheckpointError: beginning with `failed`; on all ranks.
        """
        self.finish()
        folder, key = self._folder, self._key
        return self._coordinator.run_on_all(
            lambda: action(folder, key) if self._world.is_main else None, failed=failed
        )[0]

    # -- saving

    def _save(self, step: int, state: Callable[[], StateParts], signal_number: int, *, evaluated: bool = False) -> None:
        name = checkpoint_name(step, evaluated)
        self.finish()
        start = time.perf_counter()
        if name != self._last_saved:
            facts = {**self._facts, "costs": asdict(self._writer.tally)}
            parts = dict(state())
            parts["trainer"] = {**facts, "trainer": parts["trainer"]}
            self._writer.start(name, step, parts, self._flush())
            self._last_saved = name
        self._next_save_at = self._time_of_next_save()
        self._writer.tally.pause_seconds += time.perf_counter() - start
        if signal_number:
            self.finish()
            path = self._folder.root / name
            if self._world.is_main:
                self._mark(path, step, signal_number)
            raise Interrupted(path, signal_number)

    def _mark(self, path: Path, step: int, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        content = {"step": step, "checkpoint": str(path.relative_to(self._run_dir)), "signal": name}
        try:
            write_json(self._run_dir / MARKER, content)
        except OSError as error:  # the checkpoint itself is there
            self._say(f"{self._run_dir / MARKER} cannot be written: {error.strerror}")
        self._say(f"interrupted by {name} after {step} steps, saved in {path}; the same command goes on from there")

    # -- when

    def _plan(self) -> None:
        self.next_step = -math.inf if self._writer.needs_memory else min(self._ballot.next_step, self._next_periodic)

    def _vote(self) -> Vote:
        return Vote(self._signals.received, time.monotonic() >= self._next_save_at, self._writer.has_failed)

    def _time_of_next_save(self) -> float:
        minutes = self._settings.every_minutes
        return math.inf if minutes is None or not self._world.is_main else time.monotonic() + 60 * minutes
