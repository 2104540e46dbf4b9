"""Heartbeats: every process of a run shows in the run's store that it is alive, and hears when another one fails.

The heartbeat has a thread and a connection of its own, so a training thread that waits in a collective or is busy for
minutes does not delay it; SIGSTOP and death do. It costs a process 0.2 ms per second. Failures are announced in the
store, too, and every process keeps what it has heard, because the store may end with the process that holds it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

BEAT_S = 0.5
_KEY = "drb/life"
_JOIN_S = 1.0
_LATE_S = 2.0
_LATELY_S = 30.0
_MOST_BEATS_PER_S = 4000  # that one store gets from all ranks together


@dataclass(frozen=True)
class News:
    """What a rank announced when it failed.

    Attributes:
        where: what it was doing.
        reason: its own error; empty if it only waited for others.
        silent: ranks from which it found no heartbeat.
    """

    rank: int
    where: str
    reason: str = ""
    silent: tuple[int, ...] = ()


class Heartbeat:
    """The heartbeat of this process. Methods that use the store block if its host is stopped; properties never do."""

    def __init__(self, store: Any, rank: int, world_size: int) -> None:
        self.rank = rank
        self.every_s = max(BEAT_S, world_size / _MOST_BEATS_PER_S)
        self._gone_at: float | None = None
        self._stood_still = (0.0, 0.0)  # when a beat came late, and for how long
        self._neighbour = (rank + 1) % world_size  # each process looks after one other: O(1) messages per beat
        self._neighbour_beats = -1
        self._alive_at = time.monotonic()
        self._store = own_connection(store)
        self._line = _open_line(store)
        self._news: dict[int, News] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drb-heartbeat", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    @property
    def news(self) -> list[News]:
        """What was heard so far, in the order of the announcements."""
        return [news for _, news in sorted(self._news.items())]

    @property
    def stood_still_s(self) -> float:
        """How long this process was stopped, if that was a moment ago; else 0."""
        when, seconds = self._stood_still
        return seconds if time.monotonic() - when < _LATELY_S else 0.0

    @property
    def store_is_gone(self) -> bool:
        return self._gone_at is not None

    @property
    def gone_s(self) -> float:
        """Seconds since this process noticed that the store's host has ended; 0 if it has not."""
        return 0.0 if self._gone_at is None else time.monotonic() - self._gone_at

    @property
    def silent_s(self) -> float:
        """How long the next rank has sent no heartbeat, or the store no answer; 0 if the store is gone."""
        return 0.0 if self.store_is_gone else time.monotonic() - self._alive_at

    def announce(self, news: News) -> None:
        self._require_store()
        number = self._store.add(f"{_KEY}/failures", 1) - 1
        self._store.set(f"{_KEY}/failures/{number}", json.dumps(asdict(news)))

    def hear(self) -> None:
        """Fetch what was announced since the last call."""
        self._require_store()
        for number in range(self._store.add(f"{_KEY}/failures", 0)):
            key = f"{_KEY}/failures/{number}"
            if number not in self._news and self._store.check([key]):
                content = json.loads(self._store.get(key))
                self._news[number] = News(**{**content, "silent": tuple(content["silent"])})

    def beats(self, ranks: Sequence[int]) -> dict[int, int]:
        """The number of heartbeats of each rank; 0 for one that has not begun."""
        self._require_store()
        keys = {rank: f"{_KEY}/beats/{rank}" for rank in ranks}
        return {rank: int(self._store.get(key)) if self._store.check([key]) else 0 for rank, key in keys.items()}

    def stop(self) -> None:
        """End the thread. One that is inside torch when the interpreter ends could crash the process."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)
        atexit.unregister(self.stop)

    def _run(self) -> None:
        beats = 0
        while not self._ended.is_set():
            beats += 1
            try:
                self._require_store()
                self._store.set(f"{_KEY}/beats/{self.rank}", str(beats))
                self.hear()
                self._look_after_neighbour()
            except Exception:  # which exception says that the store is gone depends on the store
                self._lose_store()
                return
            before = time.monotonic()
            self._ended.wait(self.every_s)
            late = time.monotonic() - before - self.every_s
            if late > _LATE_S:
                self._stood_still = time.monotonic(), late

    def _look_after_neighbour(self) -> None:
        beats = self.beats([self._neighbour])[self._neighbour]
        if beats != self._neighbour_beats:
            self._neighbour_beats, self._alive_at = beats, time.monotonic()

    def _lose_store(self) -> None:
        self._gone_at = self._gone_at or time.monotonic()

    def _require_store(self) -> None:
        """torch's store prints pages of stack traces when its host has ended: look at the line first."""
        if self._line is not None and select.select([self._line], [], [], 0)[0]:
            self._lose_store()
        if self.store_is_gone:
            raise ConnectionError("the store is gone")


_current: tuple[Any, Heartbeat] | None = None


def heartbeat() -> Heartbeat | None:
    """The heartbeat of this process, started by the first call; None without a default process group."""
    global _current
    if not dist.is_initialized():
        return None
    store = default_store()
    if _current is None or _current[0] is not store:
        stop_heartbeat()
        _current = store, Heartbeat(store, dist.get_rank(), dist.get_world_size())
    return _current[1]


def default_store() -> Any:
    """The store of the default process group."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def running_heartbeat() -> Heartbeat | None:
    """The heartbeat of this process, if one runs. Unlike `heartbeat`, it starts none in a process that is ending."""
    return _current[1] if _current is not None else None


def stop_heartbeat() -> None:
    """Stop the heartbeat before this process leaves the run, since one of them holds the store. Idempotent."""
    global _current
    if _current is not None:
        _current[1].stop()
        _current = None


def own_connection(store: Any) -> Any:
    """Another connection to the store, because a client does one thing at a time and may wait for minutes.

    Before torch 2.7 there is only one connection.
    """
    return store.clone() if hasattr(store, "clone") else store


def _open_line(store: Any) -> socket.socket | None:
    """An idle connection to the store's host, which ends when the host does. None if the store is no server."""
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    if hasattr(store, "host") and hasattr(store, "port"):
        with contextlib.suppress(OSError):
            return socket.create_connection((store.host, store.port), timeout=_JOIN_S)
    return None
