"""Finds the checkpoint that a run resumes from: the newest that every rank can read, or the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from drb.checkpoint.coordinator import Coordinator
from drb.checkpoint.directory import CheckpointDirectory
from drb.checkpoint.encryption import Key
from drb.checkpoint.errors import CheckpointError, UnusableError
from drb.checkpoint.format import MANIFEST, rank_part, read_manifest, read_part, require_key
from drb.checkpoint.ranks import read_rank_states
from drb.distributed.sharing import await_folder
from drb.distributed.world import World

OWN = "rank"  # the part of a state that belongs to one rank
OTHERS = "ranks"  # replaces it in a checkpoint of another number of ranks: the parts of all of them
_COSTS = {"count", "pause_seconds", "write_seconds", "bytes"}  # of a `Tally`
SHARED = ("trainer", "model", "optimizer")  # the same on all ranks, written by rank 0

CONSTANT = "constant"  # beginnings of "PART|TENSOR", for tensors whose values nobody changes while a run goes on

StateParts: TypeAlias = Mapping[str, Any]
"""The parts of a run's state by name: `rank` and those in SHARED; perhaps also CONSTANT."""


@dataclass(frozen=True)
class Saved:
    """What a run resumes from.

    Attributes:
        state: the state that was saved, with a buffer's rows as `LazyRows`. If another number of ranks saved it, it
            contains the list `ranks` with the parts of all of them instead of this rank's own part `rank`.
        facts: what `Checkpointer.begin_run` was given.
        costs: the `Tally` of earlier checkpoints.
    """

    path: Path
    state: StateParts
    facts: Mapping[str, Any]
    costs: Mapping[str, Any]


def find_saved(
    resume: str,
    folder: CheckpointDirectory,
    coordinator: Coordinator,
    world: World,
    say: Callable[[str], None],
    key: Key | None = None,
    needs: Mapping[str, Any] | None = None,
) -> Saved | None:
    """The checkpoint to resume from, None to start anew. Collective.

    Args:
        resume: auto, never, or a path, which counts until the run has a checkpoint of its own since then.
        needs: the types of the facts that a checkpoint must have, by name.
    Raises:
        CheckpointError: there are checkpoints, but none is good; or the newest may be good but cannot be read (for
            example without its key), so that going back to an older one would throw it away.
    """
    if resume == "never":
        return None
    # only rank 0 looks: on a shared file system others may see a directory later
    own = [str(path) for path in _candidates(resume, folder, key)] if world.is_main else []
    candidates = [Path(path) for path in coordinator.gather(own)[0]]
    problems = []
    for path in candidates:
        if path.is_relative_to(folder.root):
            await_folder(path)  # rank 0 has seen it
        try:
            return read_saved(path, coordinator, world, key, needs)
        except UnusableError:
            raise
        except CheckpointError as error:
            problems.append(error)
            if path != candidates[-1]:
                say(f"checkpoint: {error}; trying the one before")
    if problems:
        end = "; nothing is left to resume from: checkpoint.resume=never starts anew" if resume == "auto" else ""
        raise CheckpointError(f"{problems[0]}{end}")
    return None


def _candidates(resume: str, folder: CheckpointDirectory, key: Key | None) -> list[Path]:
    """What to resume from, the best first.

    A run that was given a path and is started again goes on from its own checkpoints since then, not from the path.
    """
    own = list(reversed(folder.checkpoints()))
    if resume == "auto":
        return own
    return [*(path for path in own if _has_resumed_from(resume, path, key)), *checkpoints_at(Path(resume))]


def checkpoints_at(path: Path) -> list[Path]:
    """The checkpoint at this path, or those of a run directory, the newest first."""
    if (path / MANIFEST).exists() or not (path / "checkpoints").is_dir():
        return [path]
    found = CheckpointDirectory(path / "checkpoints", keep_last=1).checkpoints()
    return list(reversed(found)) or [path]


def _has_resumed_from(resume: str, path: Path, key: Key | None) -> bool:
    try:
        checkpoint = read_part(path, read_manifest(path), "trainer", key)["config"]["checkpoint"]
        return bool(Path(checkpoint["resume"]).resolve() == Path(resume).resolve())
    except (CheckpointError, OSError, KeyError, TypeError):
        return False


def read_saved(
    path: Path,
    coordinator: Coordinator,
    world: World,
    key: Key | None,
    needs: Mapping[str, Any] | None = None,
    *,
    of_all_ranks: bool = False,
) -> Saved:
    """Read a checkpoint; errors are the same on all ranks. of_all_ranks: with `ranks` in any case."""
    parts: dict[str, Any] = {}
    problem, is_damaged = "", True
    try:
        manifest = read_manifest(path)
        require_key(path, manifest, key)
        parts = {name: read_part(path, manifest, name, key) for name in SHARED}
        if manifest.world_size == world.world_size and not of_all_ranks:
            parts[OWN] = read_part(path, manifest, rank_part(world.rank), key)
        else:
            parts[OTHERS] = _of_all_ranks(path, manifest.world_size, world, key)
        _check_parts(path, parts, needs or {}, rank_part(world.rank))
    except (CheckpointError, OSError) as error:
        problem, is_damaged = str(error), isinstance(error, CheckpointError) and not isinstance(error, UnusableError)
    problems = [(text, damaged) for text, damaged in coordinator.gather((problem, is_damaged)) if text]
    if problems:
        text, is_damaged = min(problems, key=lambda found: found[1])
        raise (CheckpointError if is_damaged else UnusableError)(text)
    facts = dict(parts["trainer"])
    parts["trainer"] = facts.pop("trainer")
    return Saved(path, parts, facts, facts.pop("costs"))


def _check_parts(path: Path, parts: Mapping[str, Any], needs: Mapping[str, Any], own_name: str) -> None:
    """Raise CheckpointError if a part is not what drb saves; its files are what the manifest says."""
    for name, part in parts.items():
        if not all(isinstance(own, dict) for own in (part if name == OTHERS else [part])):
            file = path / {OWN: own_name, OTHERS: "rank-*"}.get(name, name)
            raise CheckpointError(f"{file}.* hold no state: {part!s:.40}")
    facts = parts["trainer"]
    for name, kind in {"trainer": dict, "costs": dict, **needs}.items():
        if name not in facts or not isinstance(facts[name], kind):
            raise CheckpointError(f"{path / 'trainer'}.json: {name} is missing or of another kind")
    if facts["costs"].keys() != _COSTS or not all(type(cost) in (int, float) for cost in facts["costs"].values()):
        raise CheckpointError(f"{path / 'trainer'}.json: costs must have {', '.join(sorted(_COSTS))}")


def _of_all_ranks(path: Path, saved_by: int, world: World, key: Key | None) -> list[dict[str, Any]]:
    """The parts of all ranks, of which each rank needs a few rows. The ranks share the work of checking the files."""
    share = range(world.rank, saved_by, world.world_size)
    read_rank_states(path, key=key, ranks=share)
    return read_rank_states(path, key=key, check_rows=False)
