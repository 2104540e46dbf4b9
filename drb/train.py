"""The program's command line: one continual-learning run on all ranks of a launcher.

    torchrun --nproc-per-node=N -m drb.train experiment=... key=value

Every rank composes and checks the configuration by itself, before any process group opens. An error that a user can
mend is one line, from rank 0; a traceback means a fault of the program. Exit codes: 0; 1 for an error; 75 when told to
stop and saved, to be started again with the same command (0 under torchrun with --max-restarts, which would start it
again at once); 128 + the signal's number when told to stop and not saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

import torch.distributed as dist

from drb.distributed.failure import FAREWELL_S, OwnError, PeerError
from drb.distributed.heartbeat import stop_heartbeat
from drb.distributed.interrupts import ending_on_interrupt
from drb.distributed.mpi import finalize_mpi
from drb.distributed.world import World, detect_world
from drb.machine import print_whatever_comes
from drb.program.config import TrainConfig, check_config, compose_config, to_yaml
from drb.program.config.help import help_text
from drb.program.last_words import tell_launcher
from drb.program.run import run

_GRACE_S = 5.0  # what rank 0 has to say an error that all ranks have, before its exit makes the launcher end the others


class Job(Protocol):
    """A training that another command has a reason for. All but `arguments` are called on rank 0 alone."""

    def arguments(self) -> list[str]:
        """The command line of the training."""

    def begin(self) -> None:
        """Called once the configuration was checked, before the run writes anything. May raise ValueError."""

    def give_up(self) -> None:
        """Called if the run was refused: its data, model or checkpoint cannot be used."""

    def finish(self, config: TrainConfig, run_dir: Path) -> None:
        """Called after the run has ended well. May raise ValueError."""


def main(arguments: Sequence[str] | None = None, prepare: Callable[[], Job] | None = None) -> int:
    """Run, and return the process's exit code; one of several ranks that has trained ends with it.

    prepare: makes the job whose command line counts instead; called on all ranks, it may raise ValueError.
    """
    return leave(*train_once(arguments, prepare))


def leave(code: int, world: World | None) -> int:
    """Return the exit code for what `train_once` returned, or end this process with it if it was one of several."""
    if world is None:
        return code
    # torchrun would take it for a failure, and the run would go on instead of stopping
    code = 0 if code == os.EX_TEMPFAIL and world.restarts else code
    if world.world_size > 1:
        _exit_at_once(code)
    return code


def train_once(
    arguments: Sequence[str] | None = None, prepare: Callable[[], Job] | None = None
) -> tuple[int, World | None]:
    """Run as `main`; return an exit code, and this rank's world unless nothing was begun."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    print_whatever_comes()
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(help_text())
        return 0, None
    rank = 0
    try:
        place = detect_world("cpu")
        rank, job = place.rank, None
        if prepare is not None:
            job = prepare()
            arguments = job.arguments()
        config, run_dir = compose_config([a for a in arguments if a != "--cfg"], place.run_id or None)
        check_config(config, detect_world("cpu").world_size)
    except ValueError as error:
        return _say(str(error), rank, all_know=True), None
    try:
        world = detect_world(config.device)
    except ValueError as error:  # another machine may have the devices that this one lacks
        return _say(str(error), rank), None
    if "--cfg" in arguments:
        sys.stdout.write(to_yaml(config) if world.is_main else "")
        return 0, None
    with ending_on_interrupt(world.rank):
        return _run_to_exit_code(config, run_dir, world, arguments, job), world


def _run_to_exit_code(
    config: TrainConfig,
    run_dir: Path,
    world: World,
    arguments: Sequence[str],
    job: Job | None,
) -> int:
    with _sigterm_as_exit(world):
        try:
            run_job(config, run_dir, world, arguments, job if world.is_main else None)
        except ValueError as error:
            return _say(str(error), world.rank)
        except (PeerError, OwnError) as error:
            if isinstance(error, OwnError):
                traceback.print_exception(error.__cause__)
            return _say(str(error), world.rank, hurry=True)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except SystemExit as stop:
            return int(stop.code or 0)
        except Exception:
            traceback.print_exc()
            tell_launcher(traceback.format_exc())
            return 1
    return 0


def run_job(config: TrainConfig, run_dir: Path, world: World, arguments: Sequence[str], job: Job | None) -> None:
    """Run as `drb.program.run.run`, and tell the job; only rank 0 has one."""
    if job is not None:
        job.begin()
    try:
        run(config, run_dir, world, arguments)
    except ValueError:
        if job is not None:
            job.give_up()
        raise
    if job is not None:
        job.finish(config, run_dir)


def _say(message: str, rank: int, *, all_know: bool = False, hurry: bool = False) -> int:
    """One line on standard error. Other ranks wait: mostly they have the same to say and are ended before they do.

    all_know: every rank has this error, so that rank 0's line is enough. hurry: every rank's line is its own.
    Rank 0 stays a moment if there is something to hear from it.
    """
    line = " ".join(message.split())
    stop_heartbeat()  # torch prints pages if the store's host, which may be rank 0, leaves in the middle of a beat
    if rank != 0 and not hurry:
        time.sleep(_GRACE_S)
    if rank == 0 or not all_know:
        who = "" if rank == 0 else f"[rank {rank}] "
        print(f"drb: {who}error: {line}", file=sys.stderr, flush=True)
        tell_launcher(f"drb: {who}error: {line}")
    if hurry or (rank == 0 and dist.is_initialized()):
        time.sleep(FAREWELL_S)
    return 1


@contextlib.contextmanager
def _sigterm_as_exit(world: World) -> Iterator[None]:
    """Rank 0 leaves by an exception when it is told to stop, so that the tracker's status is right."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave) if world.is_main else None
    try:
        yield
    finally:
        if before is not None and signal.getsignal(signal.SIGTERM) is leave:  # not if the run was saved and ends
            signal.signal(signal.SIGTERM, before)


def _exit_at_once(code: int) -> NoReturn:
    """Without tearing the interpreter down.

    After a failure a thread that waits for a dead peer would keep the process until its timeout; after a success
    torch's threads are sometimes destroyed while they run, which aborts a process that has done all its work.
    """
    if code == 0:
        finalize_mpi()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
