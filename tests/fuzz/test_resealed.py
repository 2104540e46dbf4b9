"""Checkpoints whose content was changed and whose checksums were made right again: one sentence, or a state to use."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zlib

import pytest
from fuzz.test_checkpoints import edited, find, run_dir  # noqa: F401 - a fixture
from fuzz.told import CASES, refusal
from samples import minibatch_of

from drb import Rehearsal
from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals
from drb.distributed.world import World
from drb.runs.verification import verify

DEEP = "[" * 5000 + "]" * 5000
DIGITS = "9" * 5000
_NEEDS = {"config": dict, "tracking_run_id": (str, type(None))}


def reseal(path):
    """Make the manifest say what the files are."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (path / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}
    write_manifest(path, manifest)


def write_manifest(path, manifest):
    manifest.pop("crc32", None)
    manifest["crc32"] = f"{zlib.crc32(json.dumps(manifest, sort_keys=True).encode()):08x}"
    (path / "manifest.json").write_text(json.dumps(manifest))


def change(path, rng):
    """Change some content of a checkpoint and reseal it; what was changed."""
    kind = rng.randrange(6)
    texts = sorted(file for file in path.glob("*.json") if file.name != "manifest.json")
    if kind == 0:
        manifest = edited(json.loads((path / "manifest.json").read_text()), rng)
        if isinstance(manifest, dict):
            write_manifest(path, manifest)
        else:
            (path / "manifest.json").write_text(json.dumps(manifest))
        return "manifest"
    if kind in (1, 2, 3):
        file = rng.choice(texts)
        value = json.loads(file.read_text())
        for _ in range(rng.choice([1, 1, 3])):
            value = edited(value, rng)
        file.write_text(json.dumps(value))
    elif kind == 4:
        file = rng.choice(texts)
        file.write_text(rng.choice([DEEP, DIGITS, "null", '{"a":' + DEEP + "}", "[1e999]", "\ud7ff", "NaN"]))
    else:
        file = rng.choice(sorted(path.glob("*.safetensors")))
        content = bytearray(file.read_bytes())
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(edited(header, rng)).encode()
        text += b" " * (-len(text) % 8)
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    reseal(path)
    return file.name


def use(found):
    """What a run does with a state."""
    settings = {"admission": "class_balanced", "proportions": "stream"}
    state = found.state["rank"].get("rehearsal")
    if state is None:
        return
    with Rehearsal(12, 4, verbose=False, **settings) as rehearsal:
        rehearsal.load_state_dict(state)
        for t in range(20, 22):
            rehearsal.extend(minibatch_of(range(t * 8, t * 8 + 8)))


def test_resealed_checkpoints(run_dir, tmp_path):  # noqa: F811
    rng, refused = random.Random(11), 0
    newest = max((run_dir / "checkpoints").iterdir())
    for case in range(CASES["resealed checkpoints"]):
        copied = tmp_path / str(case)
        shutil.copytree(run_dir, copied, copy_function=os.link)
        target = copied / "checkpoints" / newest.name
        for file in target.iterdir():  # the links are to be written to
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
        what, found = change(target, rng), []

        def resume(target=target, copied=copied, found=found):
            settings = CheckpointSettings(resume=str(target), keep_last=5)
            found.append(Checkpointer(settings, copied, World(), signals=StopSignals([])).find(_NEEDS))
            use(found[0])

        try:
            message = refusal(resume)
            refused += message is not None
            if message is not None and not found:  # then the checkpoint before is taken
                told = refusal(lambda copied=copied: find(copied))
                assert told is None or "format" in told or "encrypted" in told, told
            refusal(lambda target=target: verify(target))
        except Exception as error:
            raise AssertionError(f"case {case}, {what}: {error!r}") from error
        shutil.rmtree(copied)
    assert refused > CASES["resealed checkpoints"] / 4


@pytest.mark.parametrize("text", [DEEP, DIGITS, "null"])
@pytest.mark.parametrize("file", ["trainer.json", "rank-00000.json", "manifest.json"])
def test_after_odd_json_the_checkpoint_before_is_taken(run_dir, tmp_path, file, text):  # noqa: F811
    copied = tmp_path / "run"
    shutil.copytree(run_dir, copied)
    older, newest = sorted((copied / "checkpoints").iterdir())
    (newest / file).write_text(text)
    if file != "manifest.json":
        reseal(newest)
    assert find(copied).path == older
    message = refusal(lambda: find(copied, str(newest)))
    assert str(newest / file).removesuffix(".json") in message
