"""Breaks a finished checkpoint as disks, copies and other versions do."""

from __future__ import annotations

import json
import random
from pathlib import Path


def checkpoints(run_dir: Path) -> list[Path]:
    """Finished ones, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def damage(checkpoint: Path, kind: str, generator: random.Random) -> Path:
    """The file that was broken. kind: cut_short, flipped_byte or other_version."""
    if kind == "other_version":
        path = checkpoint / "manifest.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "format": 99}))
        return path
    path = generator.choice(sorted(checkpoint.glob("*.safetensors")))
    content = bytearray(path.read_bytes())
    place = generator.randrange(len(content))
    if kind == "flipped_byte":
        content[place] ^= 1 << generator.randrange(8)
    else:
        del content[place:]
    path.unlink()  # not in place: other checkpoints may hold the same file by a hard link
    path.write_bytes(content)
    return path
