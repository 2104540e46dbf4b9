"""The checkpoints of a run: RUN_DIR/checkpoints/step-0000000123/, and the hidden names of unfinished ones.

Hidden names end in `.writing` (unfinished), `.old` (about to be replaced by a directory of the same name) or `.deleted`
(about to be deleted).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from drb.checkpoint.files import sync_folder

_NAME = re.compile(r"step-(\d+)(-evaluated)?")


def checkpoint_name(step: int, evaluated: bool = False) -> str:
    """The directory name of a checkpoint.

    Args:
        evaluated: whether it is that at the end of a task, after the evaluation.
    """
    return f"step-{step:010d}" + ("-evaluated" if evaluated else "")


class CheckpointDirectory:
    """The directory of all checkpoints. Only rank 0 changes it; other ranks write into what `begin` created."""

    def __init__(self, root: Path, keep_last: int) -> None:
        self.root = root
        self._keep_last = keep_last

    def checkpoints(self) -> list[Path]:
        """The finished checkpoints, oldest first. Whether they are intact is not checked."""
        if not self.root.is_dir():
            return []
        return sorted((path for path in self.root.iterdir() if _order(path) is not None), key=_order)  # type: ignore[arg-type]

    def clean(self) -> None:
        """Remove what is left of a run that was killed while it saved."""
        if not self.root.is_dir():
            return
        for path in [*self.root.glob(".step-*.writing"), *self.root.glob(".step-*.deleted")]:
            shutil.rmtree(path)
        for path in list(self.root.glob(".step-*.old")):
            intended = self.root / path.name.removeprefix(".").removesuffix(".old")
            if intended.exists():
                shutil.rmtree(path)
            else:  # killed between the two renames of `publish`
                path.rename(intended)

    def begin(self, name: str) -> None:
        path = unfinished(self.root / name)
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)

    def publish(self, name: str) -> Path:
        """Give a finished checkpoint its name, and only then delete older ones.

        Later ones are deleted, too: a run that went back to an older checkpoint has left them behind.
        """
        final = self.root / name
        replace_folder(final)
        all_of_them = self.checkpoints()
        index = all_of_them.index(final)
        kept = all_of_them[max(0, index + 1 - self._keep_last) : index + 1]
        for path in all_of_them:
            if path not in kept:
                _delete(path)
        return final


def unfinished(final: Path) -> Path:
    """The path at which a checkpoint is written before it gets its final one."""
    return final.with_name(f".{final.name}.writing")


def replace_folder(final: Path) -> None:
    """Rename the complete `unfinished(final)` to `final`, replacing what is there."""
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    unfinished(final).rename(final)
    sync_folder(final.parent)
    if old.exists():
        shutil.rmtree(old)


def _delete(path: Path) -> None:
    """Delete a checkpoint by renaming it first: if killed half way, nothing incomplete has a checkpoint's name."""
    doomed = path.with_name(f".{path.name}.deleted")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _order(path: Path) -> tuple[int, bool] | None:
    match = _NAME.fullmatch(path.name)
    return None if match is None or not path.is_dir() else (int(match[1]), match[2] is not None)
