"""A lineage on disk: DIR/lineage.json, DIR/versions/0001, …, and the link DIR/current for whoever serves the model.

lineage.json is the truth, written whole or not at all; the link is set after it, and again by the next command if a
process ended in between. Versions are never changed or deleted.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from drb.checkpoint import CheckpointError, RunLock

LINEAGE_FILE, CURRENT = "lineage.json", "current"
STREAM = "stream"  # a folder of the samples that were read from one
_FORMAT = "drb-lineage 3"
PATIENCE_S = 60.0


@dataclass
class Version:
    """One update.

    parent: the version that it went on from; None for the first.
    data, fingerprint: the file that it learnt, and a hash of it. files: all files up to it, the oldest first.
    before, after: accuracy of the parent and of this version by evaluation set, fractions.
    failed: the gates that it did not pass, in words. promoted: whether it became current when it was made.
    steps: optimisation steps of its line, up to it; trained: of this update alone. environment: versions of the
    software, ranks and machine. settings: of training, as key=value; its run's config.yaml has them all.
    """

    number: int
    parent: int | None
    data: str
    fingerprint: str
    files: list[str]
    samples: int
    before: dict[str, float]
    after: dict[str, float]
    failed: list[str]
    promoted: bool
    steps: int
    trained: int
    made: str
    environment: dict[str, Any]
    settings: list[str]
    tracking_run_id: str | None = None


@dataclass
class Lineage:
    """All versions, and what the next update starts from if it is told nothing else.

    settings: of training, as key=value. eval_sets: files by name; eval_fingerprints: their hashes.
    gates: see `drb.runs.lineage.gates`.
    base, base_fingerprint: the prefilled folder that the first version began with, and a hash of it; "" if with none.
    tracking: where the tracker has it. events: what happened to `current`, the oldest first.
    """

    folder: Path
    settings: list[str] = field(default_factory=list)
    eval_sets: dict[str, str] = field(default_factory=dict)
    eval_fingerprints: dict[str, str] = field(default_factory=dict)
    gates: dict[str, dict[str, float]] = field(default_factory=dict)
    base: str = ""
    base_fingerprint: str = ""
    tracking: dict[str, Any] = field(default_factory=dict)
    current: int | None = None
    versions: list[Version] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def version(self, number: int) -> Version:
        """Raises ValueError if there is no such version."""
        if not 1 <= number <= len(self.versions):
            raise ValueError(f"{self.folder} has the versions 1 to {len(self.versions)}, got {number}")
        return self.versions[number - 1]

    def line_of(self, number: int | None) -> list[Version]:
        """A version and those that it went on from, the newest first; none for None."""
        line: list[Version] = []
        while number is not None:
            line.append(self.version(number))
            number = line[-1].parent
        return line

    def run_dir(self, number: int) -> Path:
        """The directory of a version's run."""
        return self.folder / "versions" / f"{number:04d}"

    def add(self, version: Version) -> None:
        """Record a version, which becomes current if it is promoted."""
        assert version.number == len(self.versions) + 1
        self.versions.append(version)
        if version.promoted:
            self.current = version.number
        self._note("promoted" if version.promoted else "kept as a candidate", version.number)
        self.save()

    def roll_back(self, to: int | None = None, *, force: bool = False) -> Version:
        """Make another version current: the parent of the current one unless told.

        The next update goes on from it and is judged beside it, so a version that failed its gates has to be forced.

        Raises:
            ValueError: there is none, or it is a candidate.
        """
        if self.current is None:
            raise ValueError(f"{self.folder} has no current version to go back from")
        target = self.version(self.current).parent if to is None else self.version(to).number
        if target is None:
            raise ValueError(f"version {self.current} is the first one; there is nothing to go back to")
        if target == self.current:
            raise ValueError(f"version {target} is current already")
        if not (force or self.version(target).promoted):
            raise ValueError(
                f"version {target} was kept as a candidate ({'; '.join(self.version(target).failed)}), and the next "
                "update would be judged beside it; choose another with --to, or take it all the same with --force"
            )
        self.current = target
        self._note("rolled back to", target)
        self.save()
        return self.version(target)

    def save(self) -> None:
        """Write lineage.json, then set the link."""
        content = {"format": _FORMAT, **{key: value for key, value in asdict(self).items() if key != "folder"}}
        path = self.folder / LINEAGE_FILE
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
        self.set_link()

    def set_link(self) -> None:
        """Let DIR/current point to the current version.

        Raises:
            ValueError: something else than a link has that name.
        """
        link, unfinished = self.folder / CURRENT, self.folder / f".{CURRENT}.{os.getpid()}"
        if self.current is None:
            return
        if link.exists() and not link.is_symlink():
            raise ValueError(f"{link} must be a link to the current version, and is a file or folder; move it away")
        target = self.run_dir(self.current).relative_to(self.folder)
        if link.is_symlink() and Path(os.readlink(link)) == target:
            return
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(target)
        unfinished.replace(link)

    def _note(self, what: str, number: int) -> None:
        self.events.append({"time": now(), "what": what, "version": number})


def lock_lineage(folder: Path, holder: str) -> RunLock:
    """Let no other process change a lineage until the lock is released or dropped; wait for one that does.

    holder: who changes it, for other processes' messages.
    Raises:
        ValueError: another process changes it for longer than a minute.
    """
    try:
        return RunLock(folder, holder, patience_s=PATIENCE_S)
    except CheckpointError as error:
        raise ValueError(str(error)) from error


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_lineage(folder: Path) -> Lineage | None:
    """The lineage of a folder; None if there is none yet.

    Raises:
        ValueError: it is damaged or of another format, or the folder holds something else.
    """
    path = folder / LINEAGE_FILE
    if not path.exists():
        names = os.listdir(folder) if folder.is_dir() else []
        others = [name for name in names if name not in ("versions", STREAM) and not name.startswith(".")]
        if others or (folder.exists() and not folder.is_dir()):
            raise ValueError(
                f"{folder} holds no {LINEAGE_FILE}, but {', '.join(others[:3]) or 'is a file'}; choose an empty folder"
            )
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("it is of another format")
        versions = [Version(**version) for version in content.pop("versions")]
        lineage = Lineage(folder, versions=versions, **content)
        if lineage.current is not None:
            lineage.version(lineage.current)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or of another version of drb: {error}") from error
    return lineage
