"""Following a stream: one update after the other, by the same process, until the states asked for are there."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace

from drb.distributed.world import detect_world
from drb.runs.lineage.record import Lineage, read_lineage
from drb.train import leave, train_once
from drb.update.job import Update
from drb.update.planning import plan
from drb.update.request import Request
from drb.update.stream import StreamData, StreamOverError, StreamSettings

_POLL_S = 0.05
_RECORDED_S = 3600.0  # what rank 0 has to judge and record an update, while the others wait


class _Follower:
    """Plans the updates of a stream, each from the lineage as it is then."""

    def __init__(self, read_request: Callable[[], Request]) -> None:
        self._read_request = read_request
        self._request: Request | None = None
        self._data: StreamData | None = None
        self._recorded = -1  # how many versions there were when the last update was planned

    def plan(self) -> Update:
        """The next update. Raises StreamOverError if there is none, and ValueError as `drb.update.planning.plan`."""
        if self._request is None:
            self._request = self._read_request()
            settings = StreamSettings.made_of(self._request.stream)
            if settings is None:
                raise ValueError("say what is new: --data PATH, or --stream MODULE.FUNCTION --every N")
            self._data = StreamData(settings, _test_fraction(self._request))
        assert self._data is not None
        lineage = self._lineage(self._request)
        self._recorded = len(lineage.versions)
        return plan(replace(self._request, data=self._data.next_of(lineage, _say)))

    def _lineage(self, request: Request) -> Lineage:
        """The lineage, once the last update is in it: rank 0 alone records, and others may be here before.

        Raises:
            ValueError: it is not recorded after an hour.
        """
        folder = request.state.expanduser().absolute()
        deadline = time.monotonic() + _RECORDED_S
        while True:
            lineage = read_lineage(folder) or Lineage(folder)
            if len(lineage.versions) > self._recorded:
                return lineage
            if time.monotonic() > deadline:
                raise ValueError(f"rank 0 has not recorded version {self._recorded + 1} of {folder} for an hour")
            time.sleep(_POLL_S)


def follow(read_request: Callable[[], Request]) -> int:
    """Make a state of every N samples of a stream; returns the exit code. Every rank calls it.

    It ends when the states asked for are there or the stream has ended (0), when it is told to stop (75, or 130 by
    Ctrl-C) and when an update is refused or fails. The same command goes on.
    """
    follower, world, code = _Follower(read_request), None, 0
    try:
        while code == 0:
            code, began = train_once([], follower.plan)
            world = began or world
    except StreamOverError as over:
        _say(str(over))
    except KeyboardInterrupt:  # while samples were waited for
        code = 128 + signal.SIGINT
    return leave(code, world)


def _test_fraction(request: Request) -> float:
    lineage = read_lineage(request.state.expanduser().absolute())
    given = [*(lineage.settings if lineage else []), *request.settings]
    values = [each.partition("=")[2] for each in given if each.startswith("dataset.test_fraction=")]
    try:
        return float(values[-1]) if values else 0.1
    except ValueError:
        raise ValueError(f"dataset.test_fraction must be a number above 0 and below 1, got {values[-1]}") from None


def _say(line: str) -> None:
    if detect_world("cpu").is_main:
        print(line, flush=True)
