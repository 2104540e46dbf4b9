"""The all-gather of a few integers among the ranks of one node, in shared memory; it is also a barrier.

Every rank writes its message into its place, says that it has arrived and sleeps. The last rank to arrive, whichever
that is, wakes all others. So each rank sleeps at most once, however many there are (in a dissemination barrier it
sleeps log2 W times), and the last one's 3 W semaphore operations take less than a microsecond each. A rank that finds
no ticket is the last. Arrivals are counted by a semaphore of their own, because it is a post, and not a wait, that lets
others see what was written before it.

The places exist in two versions, used in turn. A rank that writes version v again has passed the barrier that follows
v, and no rank enters that barrier before it has read v.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from drb.distributed.heartbeat import running_heartbeat
from drb.distributed.peers import Peers
from drb.exchange.segment import open_segment
from drb.exchange.semaphores import WORDS, Semaphore
from drb.types import Int64Array

_SEMAPHORES = 4
_LOOK_S = 1.0  # how often a rank that waits looks whether the one it waits for is alive


class NodeGather:
    """An all-gather in memory that all peers share. Collective.

    most_words: of a message, that there is room for. A longer one, which all ranks then have, takes more memory.

    Raises:
        ValueError: the node has no such memory; on all ranks.
        OSError: nor semaphores.
    """

    def __init__(self, peers: Peers, most_words: int) -> None:
        self._peers = peers
        self._others = peers.world_size - 1
        self._open(most_words)

    def _open(self, most_words: int) -> None:
        """Open memory for messages of so many words."""
        peers = self._peers
        num_words = _SEMAPHORES * WORDS + peers.world_size * 2 * most_words
        memory = open_segment(peers, num_words, [(0, num_words)]).words[:num_words]
        semaphores = [Semaphore(words) for words in memory[: _SEMAPHORES * WORDS].reshape(_SEMAPHORES, WORDS)]
        self._arrived, self._tickets, *self._go = semaphores  # one to go by per version
        self._places = memory[_SEMAPHORES * WORDS :].reshape(2, peers.world_size, most_words)
        if peers.rank == 0:
            for semaphore in semaphores:
                semaphore.init(self._others if semaphore is self._tickets else 0)
        own = _process()
        processes = peers.gather_json(own, "shared memory")  # from now on every semaphore may be used
        self._pids = [pid for pid, namespace in processes if namespace and namespace == own[1]]
        self._version = 0
        self._most_words = most_words

    def gather_counts(self, message: Int64Array) -> Int64Array:
        """Every rank's message, int64 [W, H], valid until the next call; a barrier.

        Raises:
            PeerError: a rank has failed or ended, or did not come in time.
        """
        if len(message) > self._most_words:
            self._open(len(message))
        self._version ^= 1
        places = self._places[self._version, :, : len(message)]
        places[self._peers.rank] = message
        self._pass_barrier()
        return places

    def _pass_barrier(self) -> None:
        self._arrived.post()
        if self._tickets.take():
            if not self._go[self._version].wait(_LOOK_S):
                self._wait_longer(self._go[self._version])
            return
        for _ in range(self._others + 1):
            if not self._arrived.wait(_LOOK_S):  # at once: now this rank, too, sees what all have written
                self._wait_longer(self._arrived)
        for _ in range(self._others):
            self._tickets.post()
        for _ in range(self._others):
            self._go[self._version].post()

    def _wait_longer(self, semaphore: Semaphore) -> None:
        """Wait on, as long as the others live and there is time."""
        start = time.monotonic() - _LOOK_S
        try:
            while not semaphore.wait(_LOOK_S):
                self._require_life()
                if time.monotonic() - start > self._peers.timeout_s + _LOOK_S:
                    raise RuntimeError("timed out waiting for the ranks of this node")
        except RuntimeError as error:
            raise self._peers.failure("sizes", error, time.monotonic() - start) from error

    def _require_life(self) -> None:
        """Raise RuntimeError if a peer has ended, or announced that it fails: no socket closes here when one ends."""
        beat = running_heartbeat()
        if (beat is not None and beat.news) or not all(map(_is_running, self._pids)):
            raise RuntimeError("a rank of this node has failed or ended")


def _process() -> tuple[int, str]:
    """This process's id, and in which namespace it means something."""
    try:
        return os.getpid(), os.readlink("/proc/self/ns/pid")
    except OSError:  # then nobody looks after this one by its number
        return os.getpid(), ""


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")
