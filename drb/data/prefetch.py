"""Gathering minibatches in the background, ahead of whoever uses them, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from drb.types import Int64Array, Minibatch

_AHEAD = 3
_THREADS = 2  # while one waits for the last image of its minibatch, the other keeps the decoders busy


def gather_ahead(gather: Callable[[Int64Array], Minibatch], parts: Iterable[Int64Array]) -> Iterator[Minibatch]:
    """What `gather` gives for each part, in order, up to three ahead.

    An error is raised where its minibatch would have been; closing the iterator ends the threads.
    """
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="drb-prefetch")
    pending: deque[Future[Minibatch]] = deque()
    try:
        for part in parts:
            pending.append(pool.submit(gather, part))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
