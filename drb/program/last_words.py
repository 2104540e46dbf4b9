"""Why this process ends, for torchrun: its report, which comes last on the screen, then ends with the error itself.

Without it the report says 'To enable traceback see …', a hundred lines below what went wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

_FILE = "TORCHELASTIC_ERROR_FILE"  # where torchrun looks for it


def tell_launcher(text: str) -> None:
    """Leave a message or a traceback where torchrun, if it has started this process, will read it."""
    path = os.environ.get(_FILE)
    if path is None:
        return
    content = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
    with contextlib.suppress(OSError):  # the error has been printed already
        Path(path).write_text(json.dumps({"message": content}), encoding="utf-8")
