"""Ctrl-C while a rank waits inside torch."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

_WAITS = """
import sys
from datetime import timedelta
from torch.distributed import TCPStore
from drb.distributed.interrupts import ending_on_interrupt
store = TCPStore("127.0.0.1", 0, 1, True, timedelta(seconds=100))
with ending_on_interrupt(3):
    print("waits", flush=True)
    store.get("never set")
"""


def test_a_rank_that_waits_inside_torch_ends_soon_after_an_interrupt():
    process = subprocess.Popen([sys.executable, "-c", _WAITS], stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "waits\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "drb: rank 3 was interrupted while it waited for another rank\n"
