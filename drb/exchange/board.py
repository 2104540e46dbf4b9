"""Announcements between ranks of one node, through shared memory: no socket and nobody in between.

Every rank writes its message into its place and passes a dissemination barrier (Hensgen, Finkel & Manber 1988): in
stage s it posts to the rank 2^s further on and waits for the one 2^s before it; ceil(log2 W) posts and waits reach all.

Two versions of the places, used in turn: who writes version v again has passed the barrier after it, which nobody
enters before it has read v.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from drb.exchange.peers import Peers
from drb.exchange.semaphores import WORDS, Semaphore
from drb.heartbeat import heartbeat
from drb.types import Int64Array

_LOOK_S = 1.0  # how often a rank that waits looks whether the one it waits for is alive


def board_words(world_size: int, most_words: int) -> int:
    """Memory that a board takes, in 64-bit words."""
    return world_size * (num_stages(world_size) * WORDS + 2 * most_words)


class NodeBoard:
    """memory int64 [board_words(W, most_words)], shared by all peers, zeroed; most_words: of a message. Collective."""

    def __init__(self, peers: Peers, memory: Int64Array, most_words: int) -> None:
        self._peers = peers
        world_size, rank = peers.world_size, peers.rank
        steps = [1 << stage for stage in range(num_stages(world_size))]
        num_flags = world_size * len(steps) * WORDS
        flags = memory[:num_flags].reshape(world_size, len(steps), WORDS)
        self._places = memory[num_flags:].reshape(2, world_size, most_words)
        self._mine = [Semaphore(flags[rank, s]) for s in range(len(steps))]
        self._theirs = [Semaphore(flags[(rank + step) % world_size, s]) for s, step in enumerate(steps)]
        for semaphore in self._mine:
            semaphore.init()
        own = _process()
        processes = peers.gather_json(own, "board")  # from now on every semaphore may be used
        self._pids = [pid for pid, namespace in processes if namespace == own[1]]
        self._version = 0

    def announce(self, message: Int64Array) -> Int64Array:
        """Every rank's message, int64 [W, H], valid until the next call; a barrier."""
        self._version ^= 1
        places = self._places[self._version, :, : len(message)]
        places[self._peers.rank] = message
        self._peers.run("sizes", self._pass_barrier)
        return places

    def _pass_barrier(self) -> None:
        for mine, theirs in zip(self._mine, self._theirs, strict=True):
            theirs.post()
            if not mine.wait(_LOOK_S):
                self._wait_long(mine)

    def _wait_long(self, semaphore: Semaphore) -> None:
        deadline = time.monotonic() + self._peers.timeout_s
        while not semaphore.wait(_LOOK_S):
            self._require_life()
            if time.monotonic() > deadline:
                raise RuntimeError("timed out waiting for the ranks of this node")

    def _require_life(self) -> None:
        """No socket closes here when a peer ends. Raises RuntimeError if one has, or has announced that it fails."""
        beat = heartbeat()
        if (beat is not None and beat.news) or not all(map(_is_running, self._pids)):
            raise RuntimeError("a rank of this node has failed or ended")


def _process() -> tuple[int, str]:
    """This process's id, and in which namespace it means something."""
    return os.getpid(), os.readlink("/proc/self/ns/pid")


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def num_stages(world_size: int) -> int:
    """Of a barrier of so many ranks: each is one post and one wait."""
    return (world_size - 1).bit_length()
