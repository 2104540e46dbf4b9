"""What a run goes on from: the newest checkpoint that every rank can read, or the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from drb.checkpoint.encryption import Key
from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.folder import CheckpointFolder
from drb.checkpoint.format import rank_part, read_manifest, read_part, require_key
from drb.checkpoint.room import Room
from drb.world import World

OWN = "rank"  # the part of a state that is one rank's own
SHARED = ("trainer", "model", "optimizer")  # alike on all ranks, written by rank 0

State: TypeAlias = Mapping[str, Any]
"""The parts of a run's state by name: `rank` and those in SHARED."""


@dataclass(frozen=True)
class Saved:
    """What a run goes on from. state: as it was given, a buffer's rows as `LazyRows`; facts: what
    `Checkpointer.begin_run` was told; costs: of the checkpoints before.
    """

    path: Path
    state: State
    facts: Mapping[str, Any]
    costs: Mapping[str, Any]


def find_saved(
    resume: str, folder: CheckpointFolder, room: Room, world: World, say: Callable[[str], None], key: Key | None = None
) -> Saved | None:
    """Collective. resume: auto, never, or a path.

    Raises:
        CheckpointError: there are checkpoints, but none is good.
        ValueError: the newest good one is of another world size.
    """
    if resume == "never":
        return None
    # only rank 0 looks: on a shared file system others may see a directory later
    own = [str(path) for path in reversed(folder.checkpoints())] if world.is_main else []
    candidates = [Path(path) for path in room.share(own)[0]] if resume == "auto" else [Path(resume)]
    problems = []
    for path in candidates:
        try:
            return _read(path, room, world, key)
        except CheckpointError as error:  # noqa: PERF203 - a handful of directories
            problems.append(error)
            if path != candidates[-1]:
                say(f"checkpoint: {error}; trying the one before")
    if problems:
        end = "; nothing is left to resume from: checkpoint.resume=never starts anew" if resume == "auto" else ""
        raise CheckpointError(f"{problems[0]}{end}")
    return None


def _read(path: Path, room: Room, world: World, key: Key | None) -> Saved:
    """Raises the same error on all ranks."""
    parts: dict[str, Any] = {}
    saved_by, problem = world.world_size, ""
    try:
        manifest = read_manifest(path)
        saved_by = manifest.world_size
        require_key(path, manifest, key)
        own = rank_part(world.rank)
        names = {OWN: own, **{name: name for name in SHARED}} if world.rank < saved_by else {n: n for n in SHARED}
        parts = {name: read_part(path, manifest, file, key) for name, file in names.items()}
    except (CheckpointError, OSError) as error:
        problem = str(error)
    problem = next(filter(None, room.share(problem)), "")
    if problem:
        raise CheckpointError(problem)
    if saved_by != world.world_size:
        raise ValueError(
            f"{path} was saved by {saved_by} ranks, this run has {world.world_size}: resuming on another number of "
            f"ranks is not there yet; start it with {saved_by}"
        )
    facts = dict(parts["trainer"])
    parts["trainer"] = facts.pop("trainer")
    return Saved(path, parts, facts, facts.pop("costs"))
