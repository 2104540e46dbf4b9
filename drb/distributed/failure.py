"""Finds out which peer failed.

When a collective fails, Gloo knows at best that a socket closed. So a rank that notices it announces what it was doing,
reads what the others announce, and looks at the heartbeats of those that announce nothing (`heartbeat.py`). A rank
that fails by itself announces its own error before it leaves.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch.distributed as dist

from drb.distributed.heartbeat import Heartbeat, News, heartbeat

GRACE_S = 3.0  # how long the others get to announce that they wait, too, or to send a heartbeat
FAREWELL_S = 1.5  # how long a process stays after its announcement: it may hold the store that the others read it in
_HUNG_S = 2.0
_SHOWN = 8  # of ranks that a message names
_PACKAGE = Path(__file__).parents[1]
_SOURCE_FILE = re.compile(r"^\[/\S+\] ")


class PeerError(RuntimeError):
    """A peer died, stalled or left. The message names this rank, the round or step, the operation and the peer."""


class OwnError(RuntimeError):
    """This rank failed by an unexpected error, its cause. The message names the rank, the step and the place in drb."""


@dataclass(frozen=True)
class _Findings:
    """What a rank found out about its peers.

    Attributes:
        news: what other ranks announced.
        silent: ranks that neither announced anything nor sent a heartbeat.
        busy: ranks that sent heartbeats but announced nothing.
        store: "", "gone" or "hung".
    """

    news: Sequence[News] = ()
    silent: tuple[int, ...] = ()
    busy: tuple[int, ...] = ()
    store: str = ""


class FailureBoard:
    """Where ranks tell each other that a collective failed."""

    def __init__(self, ranks: Sequence[int]) -> None:
        """
        Args:
            ranks: the global ranks that take part in the collective.
        """
        self.ranks = tuple(ranks)
        self._heartbeat = heartbeat()
        self.rank = self._heartbeat.rank if self._heartbeat is not None else 0

    def explain(self, operation: str, error: BaseException, waited_s: float | None = None) -> PeerError:
        """Announce this rank's failure, hear the others', and build the error that names who is to blame."""
        text = f"rank {self.rank}, {operation}: failed" + ("" if waited_s is None else f" after {waited_s:.1f} s")
        blame = self._blame(self._inquire(operation))
        return PeerError(f"{text}; {blame}. Cause: {one_line(error)}")

    def announce(self, where: str, error: BaseException) -> None:
        """Tell the others that this rank fails by itself, before it leaves."""
        if self._heartbeat is not None:
            news = News(self.rank, where, one_line(error))
            _within(_HUNG_S, lambda beat=self._heartbeat: beat.announce(news))  # type: ignore[misc]

    def _inquire(self, operation: str) -> _Findings:
        if self._heartbeat is None:
            return _Findings(store="gone")
        beat, found = self._heartbeat, []
        is_hung = not _within(_grace_s(beat) + _HUNG_S, lambda: found.append(_ask(beat, operation, self.ranks)))
        heard = [news for news in beat.news if news.rank != self.rank]
        if found:
            return replace(found[0], news=heard)
        return _Findings(heard, store="hung" if is_hung and not beat.store_is_gone else "gone")

    def _blame(self, found: _Findings) -> str:
        for news in found.news:
            if news.reason:
                return f"rank {news.rank} failed: {news.where}: {news.reason}"
        stood_still_s = self._heartbeat.stood_still_s if self._heartbeat is not None else 0.0
        if stood_still_s > 0:
            return f"this rank itself stood still for {stood_still_s:.0f} s, stopped or suspended"
        if found.silent:
            return f"{_ranks(found.silent)} did not arrive and {_give(found.silent)} no heartbeat: dead or stopped"
        for news in found.news:
            silent = tuple(rank for rank in news.silent if rank != self.rank)
            if silent:
                return f"rank {news.rank} found that {_ranks(silent)} sent no heartbeat: dead or stopped"
        if found.store == "hung":
            return "the store that the ranks met at does not answer: its host is stopped (rank 0, or torchrun's agent)"
        others = first_few([f"rank {news.rank}: {news.where}" for news in found.news], "; ")
        if found.store == "gone":
            heard = f"; heard before: {others}" if others else ""
            return f"the store that the ranks met at is gone: its host has ended (rank 0, or torchrun's agent){heard}"
        if found.busy:
            return (
                f"{_ranks(found.busy)} did not arrive but {_give(found.busy, 'is', 'are')} alive: busy in a long step"
            )
        return f"all ranks are alive ({others}), so they wait for different things or the network broke"


@contextlib.contextmanager
def naming_peers(ranks: Sequence[int], where: Callable[[], str]) -> Iterator[None]:
    """Turn the failure of a collective in this block, such as a gradient all-reduce, into a PeerError.

    Args:
        ranks: the global ranks that take part in it.
        where: returns the name of this place ("step 17, gradients"); called when it fails.
    """
    try:
        yield
    except PeerError:
        raise
    except Exception as error:
        if not is_of_a_collective(error):
            raise
        raise FailureBoard(ranks).explain(where(), error) from error


@contextlib.contextmanager
def naming_failures(ranks: Sequence[int], where: Callable[[], str]) -> Iterator[None]:
    """Do what `naming_peers` does, and also announce this rank's own error to the others.

    A ValueError, which a user can mend, is raised unchanged; any other error becomes the cause of an OwnError.
    """
    try:
        with naming_peers(ranks, where):
            yield
    except (PeerError, OwnError):
        raise
    except Exception as error:
        board = FailureBoard(ranks)
        board.announce(where(), error)
        if isinstance(error, ValueError):
            raise
        raise OwnError(f"rank {board.rank}, {where()}{_location(error)}: {one_line(error)}") from error


def is_of_a_collective(error: BaseException) -> bool:
    """Whether an error comes from a collective. Gloo raises plain RuntimeErrors, which only their text identifies."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection closed"))
    )


def one_line(error: BaseException) -> str:
    """Type and first sentence; torch's and Gloo's texts begin with a source file and go on with stack traces."""
    text = (str(error).strip().splitlines() or [""])[0]
    text = _SOURCE_FILE.sub("", text).partition(". This is typically")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def first_few(things: Sequence[object], separator: str = ", ") -> str:
    """The first few things as text, so that a message about thousands of ranks stays a line."""
    more = f" and {len(things) - _SHOWN} more" if len(things) > _SHOWN else ""
    return separator.join(map(str, things[:_SHOWN])) + more


def _ask(beat: Heartbeat, operation: str, ranks: Sequence[int]) -> _Findings:
    """Announce this rank's failure and wait for what the others announce, as long as some of them may."""
    beat.announce(News(beat.rank, operation))
    before, start = beat.beats(ranks), time.monotonic()
    while True:
        beat.hear()
        told = {news.rank for news in beat.news}
        missing = tuple(rank for rank in ranks if rank not in told)
        if not missing or any(news.reason for news in beat.news):
            return _Findings()
        if time.monotonic() - start > _grace_s(beat):
            break
        time.sleep(0.05)
    after = beat.beats(missing)
    silent = tuple(rank for rank in missing if after[rank] == before[rank])
    if silent:
        beat.announce(News(beat.rank, operation, silent=silent))
    return _Findings(silent=silent, busy=tuple(rank for rank in missing if rank not in silent))


def _grace_s(beat: Heartbeat) -> float:
    return max(GRACE_S, 4 * beat.every_s)


def _within(limit_s: float, call: Callable[[], object]) -> bool:
    """Whether the call ended in time, successfully or not. A store whose host is stopped never answers."""

    def quietly() -> None:
        with contextlib.suppress(Exception):  # the store's host is gone; which exception says so depends on the store
            call()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(limit_s)
    return not thread.is_alive()


def _location(error: BaseException) -> str:
    """Where in drb an error came from: ", in trainer/learner.py backward"."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_PACKAGE) and path != Path(__file__):
            return f", in {path.relative_to(_PACKAGE)} {frame.name}"
    return ""


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {first_few(ranks)}"


def _give(ranks: Sequence[int], one: str = "sends", several: str = "send") -> str:
    return one if len(ranks) == 1 else several
