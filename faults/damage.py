"""Breaks a finished checkpoint as disks, copies and other versions do."""

from __future__ import annotations

import json
import os
import random
import zlib
from pathlib import Path


def checkpoints(run_dir: Path) -> list[Path]:
    """Finished ones, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def damage(checkpoint: Path, kind: str, generator: random.Random) -> Path:
    """The file that was broken. kind: cut_short, flipped_byte, odd_json, pipe or other_version."""
    if kind == "other_version":
        path = checkpoint / "manifest.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "format": 99}))
        return path
    if kind == "pipe":  # a reader would wait for ever
        path = generator.choice(sorted(checkpoint.iterdir()))
        path.unlink()
        os.mkfifo(path)
        return path
    if kind == "odd_json":
        path = checkpoint / "trainer.json"
        path.write_text(generator.choice(["[" * 5000 + "]" * 5000, "9" * 5000, "null"]))
        _reseal(checkpoint, path)
        return path.with_suffix("")
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


def _reseal(checkpoint: Path, path: Path) -> None:
    """Make the manifest's checksums right for a file that was changed."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    content = path.read_bytes()
    manifest["files"][path.name] = {"bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}
    del manifest["crc32"]
    manifest["crc32"] = f"{zlib.crc32(json.dumps(manifest, sort_keys=True).encode()):08x}"
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
