"""What a lineage stands on is still there: the files that it learnt and is judged by, and the run of a version."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from drb.runs.lineage.record import Lineage


def fingerprint_of(file: Path) -> str:
    """A hash of a file's content, 32 hexadecimal digits.

    Raises:
        ValueError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def require_unchanged(lineage: Lineage) -> None:
    """Raises ValueError if a file that the current version has learnt, or an evaluation set, is not what it was."""
    for version in lineage.line_of(lineage.current):
        if fingerprint_of(Path(version.data)) != version.fingerprint:
            raise ValueError(
                f"{version.data} has other content than version {version.number} learnt; put back what was there"
            )
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
