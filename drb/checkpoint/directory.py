"""The checkpoints of a run: RUN_DIR/checkpoints/step-0000000123/, and the hidden names of unfinished ones.

Hidden names end in `.writing` (unfinished), `.old` (about to be replaced by a directory of the same name) or `.deleted`
(about to be deleted). A hidden directory that cannot be deleted, such as one that a file system still holds open, stays
until the next attempt. It never keeps a run from saving or from starting; only `drb forget` must get rid of it.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
from pathlib import Path

from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.files import sync_folder

_log = logging.getLogger("drb")

_NAME = re.compile(r"step-(\d+)(-evaluated)?")


def checkpoint_name(step: int, evaluated: bool = False) -> str:
    """The directory name of a checkpoint.

    Args:
        evaluated: whether it is that at the end of a task, after the evaluation.
    """
    return f"step-{step:010d}" + ("-evaluated" if evaluated else "")


class CheckpointDirectory:
    """The directory of all checkpoints. Only rank 0 changes it; other ranks write into what `begin` created."""

    def __init__(self, root: Path, keep_last: int, *, private: bool = True) -> None:
        """
        Args:
            private: whether only the user may read what is saved from now on; else the umask decides.
        """
        self.root = root
        self._mode = 0o700 if private else 0o777
        self._keep_last = keep_last

    def checkpoints(self) -> list[Path]:
        """The finished checkpoints, oldest first. Whether they are intact is not checked."""
        if not self.root.is_dir():
            return []
        return sorted((path for path in self.root.iterdir() if _order(path) is not None), key=_order)  # type: ignore[arg-type]

    def clean(self, *, strict: bool = False) -> None:
        """Remove what is left of a run that was killed while it saved.

        Args:
            strict: whether it is an error if something cannot be removed, since it may contain samples.
        Raises:
            CheckpointError: with `strict`, naming what cannot be removed.
        """
        if not self.root.is_dir():
            return
        for path in list(self.root.glob(".step-*.old")):
            intended = self.root / path.name.removeprefix(".").removesuffix(".old")
            if not intended.exists():  # killed between the two renames of `replace_folder`
                path.rename(intended)
        for suffix in ("writing", "deleted", "old"):
            for path in list(self.root.glob(f".step-*.{suffix}")):
                remove(path, strict=strict)

    def begin(self, name: str) -> None:
        """Create the directory in which the checkpoint is written."""
        path = unfinished(self.root / name)
        make_room(path)
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(mode=self._mode, exist_ok=True)
        path.mkdir(mode=self._mode)

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
                _retire(path)
        return final


def unfinished(final: Path) -> Path:
    """The path at which a checkpoint is written before it gets its final one."""
    return final.with_name(f".{final.name}.writing")


def replace_folder(final: Path, *, strict: bool = False) -> None:
    """Rename the complete `unfinished(final)` to `final`, replacing what is there.

    Args:
        strict: whether it is an error if what was there cannot be removed, since it may contain samples.
    """
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        make_room(old)
        _rename(final, old)
    _rename(unfinished(final), final)
    sync_folder(final.parent)
    if old.exists():
        remove(old, strict=strict)


def make_room(path: Path) -> None:
    """Remove a hidden directory, or move it out of the way if it cannot be removed."""
    if path.exists():
        shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        _rename(path, _doomed(path))


def remove(path: Path, *, strict: bool = False) -> None:
    """Remove a directory.

    Args:
        strict: raise CheckpointError if that fails; otherwise say so and go on.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        problem = f"{path} cannot be deleted: {error.strerror or error}"
        if strict:
            raise CheckpointError(f"{problem}; it may contain samples: delete it and try again") from None
        _log.warning("checkpoint: %s; it stays, and the run goes on", problem)


def _retire(path: Path) -> None:
    """Delete a checkpoint by renaming it first: if killed half way, nothing incomplete has a checkpoint's name."""
    doomed = _doomed(path)
    try:
        _rename(path, doomed)
    except OSError as error:
        _log.warning("checkpoint: %s cannot be deleted: %s; it stays, and the run goes on", path, error.strerror)
        return
    remove(doomed)


def _doomed(path: Path) -> Path:
    """A free hidden name, under which a directory is deleted."""
    doomed = path.with_name(f".{path.name.removeprefix('.').removesuffix('.writing')}.deleted")
    return doomed.with_name(f".{path.name.strip('.')}.{secrets.token_hex(4)}.deleted") if doomed.exists() else doomed


def _rename(source: Path, target: Path) -> None:
    """Rename a directory. A network file system may do so and report an error all the same."""
    try:
        source.rename(target)
    except OSError:
        if source.exists() or not target.exists():
            raise


def _order(path: Path) -> tuple[int, bool] | None:
    match = _NAME.fullmatch(path.name)
    return None if match is None or not path.is_dir() else (int(match[1]), match[2] is not None)
