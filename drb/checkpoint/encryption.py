"""Encrypted files: readable only with the key, and protected against undetected changes.

Files are encrypted with AES-256-GCM in chunks, as in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár
2015). The nonce of a chunk is its number and whether it is the last, so chunks cannot be swapped, dropped or added.
Every file has its own key, derived (HKDF-SHA256) from the user's key, a random salt and the file's name. The layout is
8 bytes of magic, 32 bytes of salt, and the chunks.

`cryptography` is imported when there is a key: the extra [encryption].
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drb.checkpoint.errors import CheckpointError

ENCRYPTED = ".enc"
CIPHER = "AES-256-GCM"
_MAGIC = b"drb-enc1"
_SALT_BYTES, _TAG_BYTES, _KEY_BYTES = 32, 16, 32
_CHUNK_BYTES = 1 << 20
_MOST_KEY_FILE_BYTES = 4096


@dataclass(frozen=True)
class Key:
    """An encryption key.

    Attributes:
        secret: 32 bytes, never shown.
        source: the file that it was read from.
    """

    secret: bytes = field(repr=False)
    source: str

    @property
    def check(self) -> str:
        """A short text that tells keys apart without revealing them."""
        return _derive(self.secret, b"", b"drb check")[:4].hex()

    def of_file(self, name: str, salt: bytes) -> Any:
        """The cipher of one file."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(_derive(self.secret, salt, b"drb file " + name.encode()))


def read_key(path: str | Path) -> Key:
    """The key in a file: 32 bytes, or the same as 64 hexadecimal digits or in base64.

    Raises:
        ValueError: no such file, others may read it, no such key, or `cryptography` is not installed.
    """
    _require_cryptography()
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"checkpoint.key_file={path} is no regular file")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(f"checkpoint.key_file={path} is open to other users; chmod 600 {path}")
        if found.st_size > _MOST_KEY_FILE_BYTES:
            raise ValueError(f"checkpoint.key_file={path} has {found.st_size} bytes, a key has {_KEY_BYTES}")
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"checkpoint.key_file={path} cannot be read: {error.strerror}") from None
    secret = _decode(content)
    if secret is None:
        raise ValueError(
            f"checkpoint.key_file={path} must hold {_KEY_BYTES} bytes, raw or as hexadecimal digits or base64, got "
            f"{len(content)} bytes; make one with: openssl rand -hex 32"
        )
    return Key(secret, str(path))


class Sealer:
    """Encrypts one file, piece by piece."""

    def __init__(self, key: Key, name: str) -> None:
        salt = os.urandom(_SALT_BYTES)
        self._cipher, self._name = key.of_file(name, salt), name.encode()
        self._head = _MAGIC + salt
        self._number = 0
        self._waiting = bytearray()

    def update(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Encrypt more data; yields what can be written already."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _CHUNK_BYTES):
            self._waiting += view[start : start + _CHUNK_BYTES]
            while len(self._waiting) > _CHUNK_BYTES:  # at least a byte stays: the last chunk is another kind
                yield self._seal(self._waiting[:_CHUNK_BYTES], is_last=False)
                del self._waiting[:_CHUNK_BYTES]

    def finish(self) -> bytes:
        return self._seal(self._waiting, is_last=True)

    def _seal(self, chunk: bytearray, *, is_last: bool) -> bytes:
        head, self._head = self._head, b""
        sealed: bytes = self._cipher.encrypt(_nonce(self._number, is_last), bytes(chunk), self._name)
        self._number += 1
        return head + sealed


def decrypt_file(path: Path, key: Key | None) -> bytes:
    """The decrypted content of a file.

    Raises:
        CheckpointError: another key, or the file was altered, renamed or cut short.
    """
    if key is None:
        raise CheckpointError(f"{path} is encrypted; give the key that it was written with: checkpoint.key_file=PATH")
    from cryptography.exceptions import InvalidTag

    content = bytearray()
    with open(path, "rb") as file:
        head = file.read(len(_MAGIC) + _SALT_BYTES)
        if head[: len(_MAGIC)] != _MAGIC:
            raise CheckpointError(f"{path} does not hold what its name says: it does not begin as encrypted files do")
        cipher, name, number = key.of_file(path.name, head[len(_MAGIC) :]), path.name.encode(), 0
        left = os.fstat(file.fileno()).st_size - len(head)
        try:
            while not number or left:
                sealed = file.read(_CHUNK_BYTES + _TAG_BYTES)
                left -= len(sealed)
                content += cipher.decrypt(_nonce(number, is_last=not left), sealed, name)
                number += 1
        except InvalidTag:
            raise CheckpointError(
                f"{path} cannot be decrypted with the key in {key.source}: it is another key, or the file was altered"
            ) from None
    return bytes(content)


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


def _derive(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived: bytes = HKDF(SHA256(), _KEY_BYTES, salt or None, purpose).derive(secret)
    return derived


def _decode(content: bytes) -> bytes | None:
    if len(content) == _KEY_BYTES:
        return content
    text = content.strip()
    try:
        if len(text) == 2 * _KEY_BYTES:
            return bytes.fromhex(text.decode("ascii"))
        secret = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return secret if len(secret) == _KEY_BYTES else None


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError("checkpoint.key_file needs cryptography; pip install 'drb-train[encryption]'") from None
