"""Announcements between ranks of one node, through shared memory: no socket and nobody in between.

Every rank writes its message into its place and passes a dissemination barrier (Hensgen, Finkel & Manber 1988): in
stage s it posts to the rank 2^s further on and waits for the one 2^s before it; ceil(log2 W) posts and waits reach all.

Two versions of the places, used in turn: who writes version v again has passed the barrier after it, which nobody
enters before it has read v.
"""

from __future__ import annotations

import time

from drb.exchange.peers import Peers
from drb.exchange.semaphores import WORDS, Semaphore
from drb.types import Int64Array

_LOOK_S = 1.0  # how often a rank that waits looks whether the one it waits for is alive


def board_words(world_size: int, most_words: int) -> int:
    """Memory that a board takes, in 64-bit words."""
    return world_size * (_num_stages(world_size) * WORDS + 2 * most_words)


class NodeBoard:
    """memory int64 [board_words(W, most_words)], shared by all peers, zeroed; most_words: of a message. Collective."""

    def __init__(self, peers: Peers, memory: Int64Array, most_words: int) -> None:
        self._peers = peers
        world_size, rank = peers.world_size, peers.rank
        steps = [1 << stage for stage in range(_num_stages(world_size))]
        num_flags = world_size * len(steps) * WORDS
        flags = memory[:num_flags].reshape(world_size, len(steps), WORDS)
        self._places = memory[num_flags:].reshape(2, world_size, most_words)
        self._mine = [Semaphore(flags[rank, s]) for s in range(len(steps))]
        self._theirs = [Semaphore(flags[(rank + step) % world_size, s]) for s, step in enumerate(steps)]
        for semaphore in self._mine:
            semaphore.init()
        peers.barrier("board")
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
            self._peers.require_signs_of_life()
            if time.monotonic() > deadline:
                raise RuntimeError("timed out waiting for the ranks of this node")


def _num_stages(world_size: int) -> int:
    return (world_size - 1).bit_length()
