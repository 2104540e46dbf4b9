"""Samples on disk are unreadable without the key, and cannot be changed unnoticed."""

from __future__ import annotations

import base64
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from drb.buffer.snapshot import RowWatch
from drb.checkpoint import (
    Checkpointer,
    CheckpointError,
    CheckpointSettings,
    StopSignals,
    read_key,
    read_rank_states,
    rewrite_checkpoint,
)
from drb.checkpoint.encryption import Key, Sealer, decrypt_file
from drb.distributed.world import World

SECRET = bytes(range(32))
PATTERN = b"a sample that must not be seen!!"
CHUNK = 1 << 20


def key_file(folder: Path, content: bytes = SECRET, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def state(value: int) -> dict:
    rows = np.full((6, 9), value)
    rows[3, :4] = np.frombuffer(PATTERN, np.int64)
    fetched = torch.frombuffer(bytearray(PATTERN), dtype=torch.uint8)
    watch = RowWatch(rows)
    rehearsal = {"fetched": fetched, "buffer": {"rows": watch.snapshot(np.arange(6))}}
    own = {"loss_sum": torch.tensor(1.0), "rehearsal": rehearsal}
    return {"trainer": {"steps": value}, "model": {"w": torch.ones(2)}, "optimizer": {}, "rank": own}


def open_saver(folder: Path, key: Path | None) -> Checkpointer:
    settings = CheckpointSettings(every_steps=1, signals=[], key_file=None if key is None else str(key))
    saver = Checkpointer(settings, folder, World(), signals=StopSignals([]))
    saver.begin_task(0)
    return saver


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    saver = open_saver(tmp_path, key_file(tmp_path))
    saver.visit(1, lambda: state(1))
    saver.finish()
    return tmp_path / "checkpoints/step-0000000001"


def test_samples_and_key_are_in_no_file_and_come_back(checkpoint, tmp_path):
    for path in checkpoint.iterdir():
        content = path.read_bytes()
        assert PATTERN not in content
        assert SECRET not in content
        assert SECRET.hex().encode() not in content
    saved = open_saver(tmp_path, tmp_path / "key").find()
    assert saved.state["rank"]["rehearsal"]["buffer"]["rows"][3,].tobytes()[:32] == PATTERN
    assert saved.state["rank"]["rehearsal"]["fetched"].numpy().tobytes() == PATTERN


@pytest.mark.parametrize("content", [SECRET, SECRET.hex().encode() + b"\n", base64.b64encode(SECRET)])
def test_a_key_may_be_raw_hexadecimal_or_base64(tmp_path, content):
    assert read_key(key_file(tmp_path, content)).secret == SECRET


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (SECRET[:31], 0o600, "must hold 32 bytes, .* got 31 bytes"),
        (b"", 0o600, "got 0 bytes"),
        (b"z" * 64, 0o600, "got 64 bytes"),
        (SECRET, 0o640, "is open to other users; chmod 600"),
        (SECRET, 0o604, "is open to other users"),
    ],
)
def test_a_bad_key_file_is_one_line_that_never_shows_it(tmp_path, content, mode, problem):
    with pytest.raises(ValueError, match=problem) as error:
        read_key(key_file(tmp_path, content, mode))
    assert not content or content.hex() not in str(error.value)
    assert SECRET.hex() not in repr(Key(SECRET, "x"))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_key(tmp_path / "nowhere")


def test_another_key_or_none_is_said(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="step-0000000001 is encrypted; give the key .*checkpoint.key_file"):
        open_saver(tmp_path, None).find()
    (tmp_path / "other").mkdir()
    other = key_file(tmp_path / "other", SECRET[::-1])
    with pytest.raises(CheckpointError, match="was encrypted with another key than the one in .*other/key"):
        open_saver(tmp_path, other).find()


def test_without_the_key_an_older_checkpoint_is_not_gone_back_to(tmp_path):
    for step, key in ((1, None), (2, key_file(tmp_path))):  # encryption was switched on in between
        saver = open_saver(tmp_path, key)
        saver.visit(step, lambda step=step: state(step))
        saver.finish()
    with pytest.raises(CheckpointError, match="step-0000000002 is encrypted; give the key"):
        open_saver(tmp_path, None).find()


@pytest.mark.parametrize("how", ["flipped", "swapped", "cut"])
def test_an_altered_file_is_named_even_if_the_manifest_was_altered_with_it(checkpoint, tmp_path, how):
    path = next(checkpoint.glob("rank-*.rows-*.enc"))
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[-1] ^= 1
    elif how == "swapped":
        content = bytearray((checkpoint / "rank-00000.safetensors.enc").read_bytes())
    else:
        del content[-20:]
    path.write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][path.name] = {"bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}
    del manifest["crc32"]
    manifest["crc32"] = f"{zlib.crc32(json.dumps(manifest, sort_keys=True).encode()):08x}"
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    (rank,) = read_rank_states(checkpoint, key=read_key(tmp_path / "key"))
    with pytest.raises(CheckpointError, match=rf"{path.name} cannot be decrypted .* or the file was altered"):
        rank["rehearsal"]["buffer"]["rows"][:]


def sealed(tmp_path: Path, size: int) -> tuple[Path, bytes, Key]:
    key, plain = Key(SECRET, "key"), os.urandom(size)
    sealer, path = Sealer(key, "file"), tmp_path / "file"
    pieces = [plain[start : start + 700_001] for start in range(0, size, 700_001)]
    path.write_bytes(b"".join([*(c for piece in pieces for c in sealer.update(piece)), sealer.finish()]))
    return path, plain, key


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_any_length_comes_back(tmp_path, size):
    path, plain, key = sealed(tmp_path, size)
    assert decrypt_file(path, key) == plain


@pytest.mark.parametrize("how", ["order", "last dropped", "first dropped", "renamed", "empty"])
def test_chunks_have_an_order_and_files_a_name(tmp_path, how):
    path, _, key = sealed(tmp_path, 3 * CHUNK)
    content = path.read_bytes()
    head, body = content[:40], content[40:]
    chunks = [body[start : start + CHUNK + 16] for start in range(0, len(body), CHUNK + 16)]
    assert len(chunks) == 3
    if how == "order":
        chunks = [chunks[1], chunks[0], chunks[2]]
    elif how == "last dropped":
        chunks = chunks[:2]
    elif how == "first dropped":
        chunks = chunks[1:]
    elif how == "empty":
        chunks = []
    path.write_bytes(head + b"".join(chunks))
    if how == "renamed":
        path = path.rename(tmp_path / "another")
    with pytest.raises(CheckpointError, match="cannot be decrypted"):
        decrypt_file(path, key)


def test_a_rewritten_checkpoint_is_encrypted_again(checkpoint, tmp_path):
    key = read_key(tmp_path / "key")
    rewrite_checkpoint(checkpoint, lambda rank, state: state, key=key)
    assert all(PATTERN not in path.read_bytes() for path in checkpoint.iterdir())
    (rank,) = read_rank_states(checkpoint, key=key)
    assert rank["rehearsal"]["buffer"]["rows"][3].tobytes()[:32] == PATTERN
