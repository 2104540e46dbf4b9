"""How many cases there are, and what a refusal must look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

CASES = {
    "command lines": 45,
    "configurations": 700,
    "settings": 300,
    "minibatches": 900,
    "states": 250,
    "checkpoints": 250,
    "resealed checkpoints": 200,
    "encrypted files": 600,
    "encryption keys": 256,
    "states astray": 75,
}


def refusal(call: Callable[[], Any]) -> str | None:
    """The message with which a call refuses; None if it accepts. Anything but a ValueError of one line is a failure."""
    try:
        call()
        return None
    except ValueError as raised:
        error = raised
    message = str(error)
    assert not isinstance(error, (json.JSONDecodeError, UnicodeError)), message
    assert 15 < len(message) < 1500, message
    assert "\n" not in message.strip(), message
    return message
