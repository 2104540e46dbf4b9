"""Ctrl-C ends a process even if its main thread waits inside torch for a rank that has ended already.

Python runs the handler of a signal when the main thread comes back from C++, which may be after minutes. A thread
notices the signal at once, and ends the process if the handler has not been run a few seconds later.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_PATIENCE_S = 4.0  # torchrun kills after 30


@contextlib.contextmanager
def ending_on_interrupt(rank: int) -> Iterator[None]:
    """Within this block, SIGINT raises KeyboardInterrupt, or ends the process with 130 if that takes too long.

    It does nothing outside the main thread, and while another handler of SIGINT is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        handled.set()
        raise KeyboardInterrupt

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.signal(signal.SIGINT, interrupt)
    fd_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, interrupt, handled, rank), name="drb-interrupts", daemon=True).start()
    try:
        yield
    finally:
        handled.set()
        signal.set_wakeup_fd(fd_before)
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)
        writer.close()  # the thread ends


def _watch(reader: socket.socket, handler: object, handled: threading.Event, rank: int) -> None:
    with reader:
        while received := reader.recv(64):
            if signal.SIGINT not in received or signal.getsignal(signal.SIGINT) is not handler:
                continue
            if not handled.wait(_PATIENCE_S):
                sys.stderr.write(f"drb: rank {rank} was interrupted while it waited for another rank\n")
                sys.stderr.flush()
                os._exit(128 + signal.SIGINT)
