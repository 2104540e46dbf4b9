"""A checksum inside a JSON file, of the rest of it: the manifest vouches for the other files, and this for it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

_SEAL = "crc32"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """With a checksum that `require_seal` checks."""
    return {**content, _SEAL: _checksum(content)}


def require_seal(content: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: the content is not as it was sealed. Its layout in the file does not count.
    """
    if content.get(_SEAL) != _checksum({key: value for key, value in content.items() if key != _SEAL}):
        raise ValueError("its checksum is wrong, so it has changed since it was written")


def _checksum(content: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
