"""An iterable read as a source of a mix: its samples are numbered in the order in which it gives them.

What is asked of it: every iteration begins with its first sample and gives the same samples in the same order. Each
process reads for itself, forward, and passes over what other processes train; a data set that gives each worker of a
loader a part of its own (torch's `get_worker_info`) is read as if there were no workers. If the iterable has `skip(n)`,
which returns an iterable without its first n samples (as the streamed data sets of Hugging Face have it), then a
process that goes on later begins there; otherwise it reads up to there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data._utils import worker


class StreamEndedError(ValueError):
    """A stream has no sample of a number. number: of the first one that is missing, or a later one."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Stream:
    """Samples of an iterable by their number, cheap as long as the numbers ascend."""

    _process: int  # whose iterator it is
    _next: int  # the number of the sample that the iterator gives next
    _samples: Iterator[Any]

    def __init__(self, name: str, iterable: Iterable[Any]) -> None:
        """
        Raises:
            ValueError: it is an iterator, which gives its samples only once.
        """
        if isinstance(iterable, Iterator):
            raise ValueError(
                f"source {name!r} is an iterator ({type(iterable).__name__}), which gives its samples only once, so "
                "that no run could go on with it; give an object whose __iter__ begins anew each time"
            )
        self._name = name
        self._iterable = iterable
        self._close()

    def __getitem__(self, number: int) -> Any:
        """Sample `number`.

        Raises:
            StreamEndedError: the stream has ended before.
        """
        with _outside_of_workers():
            if self._process != os.getpid() or number < self._next:  # an iterator of another process is not shared
                self._open(number)
            found = list(islice(self._samples, number - self._next, number - self._next + 1))
        self._next = number + 1
        if not found:
            raise StreamEndedError(
                f"source {self._name!r} ended before its sample {number}; a stream is expected to go on. To go on "
                "without it, leave it out and load the state with changes='allow'",
                number,
            )
        return found[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_iterable": self._iterable}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._close()

    def _close(self) -> None:
        self._process, self._next, self._samples = -1, 0, iter(())

    def _open(self, number: int) -> None:
        skip = getattr(self._iterable, "skip", None) if number else None
        self._process, self._next = os.getpid(), 0 if skip is None else number
        self._samples = iter(self._iterable if skip is None else skip(number))


@contextmanager
def _outside_of_workers() -> Iterator[None]:
    """Let `torch.utils.data.get_worker_info` say that this process is no worker."""
    info, worker._worker_info = worker._worker_info, None
    try:
        yield
    finally:
        worker._worker_info = info
