"""A run's checkpoints: RUN_DIR/checkpoints/step-0000000123/, and the names of those that are not finished yet.

Hidden names end in `.writing` (not finished), `.old` (about to be replaced by a directory of the same name) or
`.deleted` (about to be gone).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from drb.checkpoint.files import sync_folder

_NAME = re.compile(r"step-(\d+)(-evaluated)?")


def checkpoint_name(step: int, evaluated: bool = False) -> str:
    """evaluated: at the end of a task, which takes no step of its own."""
    return f"step-{step:010d}" + ("-evaluated" if evaluated else "")


class CheckpointDirectory:
    """Only rank 0 changes it; other ranks write into the directory that `begin` made."""

    def __init__(self, root: Path, keep_last: int) -> None:
        self.root = root
        self._keep_last = keep_last

    def checkpoints(self) -> list[Path]:
        """Finished ones, oldest first; whether they are intact is not known yet."""
        if not self.root.is_dir():
            return []
        return sorted((path for path in self.root.iterdir() if _order(path) is not None), key=_order)  # type: ignore[arg-type]

    def clean(self) -> None:
        """Remove what a run left behind that was killed while it saved."""
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
        """Give a finished checkpoint its name. Only now older ones are deleted.

        So are later ones, which a run has that went back to an older checkpoint: they are not of its past.
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
    """Where a checkpoint is written that gets this path."""
    return final.with_name(f".{final.name}.writing")


def replace_folder(final: Path) -> None:
    """Give what is complete in `unfinished(final)` its name, in the place of what has it."""
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    unfinished(final).rename(final)
    sync_folder(final.parent)
    if old.exists():
        shutil.rmtree(old)


def _delete(path: Path) -> None:
    """Killed half way, nothing is left that has a checkpoint's name and not its files."""
    doomed = path.with_name(f".{path.name}.deleted")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _order(path: Path) -> tuple[int, bool] | None:
    match = _NAME.fullmatch(path.name)
    return None if match is None or not path.is_dir() else (int(match[1]), match[2] is not None)
