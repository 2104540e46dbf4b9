"""Encrypted checkpoints with any byte altered, or read with any other key: refused in one line, never other content."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint.test_encryption import SECRET, key_file, open_saver, state
from fuzz.test_resealed import reseal
from fuzz.told import CASES, refusal

from drb.checkpoint import read_key, read_rank_states
from drb.checkpoint.encryption import Key

HEAD = 40  # bytes of magic and salt


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encrypted")
    saver = open_saver(folder, key_file(folder))
    saver.visit(1, lambda: state(1))
    saver.finish()
    return folder / "checkpoints/step-0000000001"


def rows_in(checkpoint: Path, key: Key | None) -> bytes:
    """What is stored in it, all of which is read."""
    (rank,) = read_rank_states(checkpoint, key=key)
    return rank["rehearsal"]["buffer"]["rows"][:].tobytes() + rank["rehearsal"]["fetched"].numpy().tobytes()


def altered(content: bytes, rng: random.Random) -> bytes:
    """A file's content, changed in its magic, its salt, its encrypted bytes or its tag."""
    size = len(content)
    place = rng.choice([range(8), range(8, HEAD), range(HEAD, size - 16), range(size - 16, size)])
    start = rng.choice(place)
    kind = rng.randrange(5)
    if kind <= 1:
        return content[:start] + bytes([content[start] ^ 1 << rng.randrange(8)]) + content[start + 1 :]
    if kind == 2:
        return content[:start] + content[start + rng.randint(1, 40) :]
    if kind == 3:
        return content[:start] + rng.randbytes(rng.randint(1, 40)) + content[start:]
    swapped = bytearray(content)
    other = rng.randrange(size)
    swapped[start], swapped[other] = swapped[other], swapped[start]
    return bytes(swapped)


def with_contents(checkpoint: Path, contents: dict[Path, bytes], call: Callable[[], object]) -> str | None:
    """The refusal of a call while files have other contents, and the manifest has their checksums."""
    before = {path: path.read_bytes() for path in [*contents, checkpoint / "manifest.json"]}
    try:
        for path, content in contents.items():
            path.write_bytes(content)
        reseal(checkpoint)
        return refusal(call)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_altered_bytes_and_exchanged_files_are_refused(checkpoint):
    rng, key = random.Random(3), read_key(checkpoint.parents[1] / "key")
    files = sorted(checkpoint.glob("*.enc"))
    assert len(files) == 2
    expected = rows_in(checkpoint, key)
    for case in range(CASES["encrypted files"]):
        path = files[case % 2]
        content = altered(path.read_bytes(), rng)
        if content == path.read_bytes():
            continue
        message = with_contents(checkpoint, {path: content}, lambda: rows_in(checkpoint, key))
        assert message is not None, case
        assert path.name in message, message
    exchanged = {path: other.read_bytes() for path, other in zip(files, reversed(files), strict=True)}
    assert "cannot be decrypted" in str(with_contents(checkpoint, exchanged, lambda: rows_in(checkpoint, key)))
    assert rows_in(checkpoint, key) == expected


def test_no_other_key_reads_anything(checkpoint):
    assert "is encrypted; give the key" in str(refusal(lambda: rows_in(checkpoint, None)))
    for bit in range(CASES["encryption keys"]):
        wrong = bytearray(SECRET)
        wrong[bit // 8 % 32] ^= 1 << bit % 8
        message = refusal(lambda wrong=wrong: rows_in(checkpoint, Key(bytes(wrong), "keys/other")))
        assert message is not None
        assert "another key" in message
        assert bytes(wrong).hex() not in message
