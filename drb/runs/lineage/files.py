"""What a lineage stands on is still there: the files that it learnt and is judged by, and the run of a version."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NoReturn

from drb.data.cache.files import META
from drb.data.cache.place import FOLDER_NAME
from drb.runs.lineage.record import Lineage


def fingerprint_of(path: Path) -> str:
    """A hash, 32 hexadecimal digits: of a file's content, or of the names and sizes of all files below a folder.

    Of a prefilled folder also of what it says of itself, which has a hash of the ids. Hidden files and the folders of
    drb's caches do not count.

    Raises:
        ValueError: it cannot be read, or the folder is empty.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        if path.is_dir():
            for name, size in _files_below(path):
                digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            if (path / META).exists():
                digest.update((path / META).read_bytes())
        else:
            with open(path, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _files_below(folder: Path) -> list[tuple[str, int]]:
    """Path below the folder, and size in bytes, sorted."""
    found = []
    for where, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".") and name != FOLDER_NAME]
        paths = [os.path.join(where, name) for name in files if not name.startswith(".")]
        found += [(os.path.relpath(path, folder), os.path.getsize(path)) for path in paths]
    if not found:
        raise ValueError(f"{folder} holds no files")
    return sorted(found)


def _raise(error: OSError) -> NoReturn:
    raise error


def require_unchanged(lineage: Lineage) -> None:
    """Raises ValueError if a file that the current version has learnt, or an evaluation set, is not what it was."""
    for version in lineage.line_of(lineage.current):
        if fingerprint_of(Path(version.data)) != version.fingerprint:
            raise ValueError(
                f"{version.data} has other content than version {version.number} learnt; put back what was there"
            )
    if lineage.base and fingerprint_of(Path(lineage.base)) != lineage.base_fingerprint:
        raise ValueError(f"{lineage.base} is not what {lineage.folder} began with; put back what was there")
    for name, file in lineage.eval_sets.items():
        if fingerprint_of(Path(file)) != lineage.eval_fingerprints[name]:
            raise ValueError(
                f"the evaluation set {name} has other content than before; put back what was in {file}, or give "
                f"--eval {name}={file} again to use what it has now"
            )


def require_run(lineage: Lineage, number: int) -> None:
    """Raises ValueError if the run of a version is gone, or another one is in its place."""
    run_dir = lineage.run_dir(number)
    try:
        run_id = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))["config"]["run_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{run_dir} does not hold the run of version {number}, which is current; put it back, or make another "
            f"version current by drb rollback {lineage.folder} --to N"
        ) from error
    if not str(run_id).endswith(f"-{number:04d}"):
        raise ValueError(f"{run_dir} holds the run {run_id}, and not that of version {number}; put the latter back")
