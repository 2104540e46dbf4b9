"""Whether the ranks' samplers divide the same samples among them, also those that begin in the midst of a run.

`drb.rehearsal.handshake` looks at it before the first step. From then on each rank says in its round's message of which
shard its minibatches are, in one integer. Ranks need not begin the next data set in the same step, so the shards are
compared once they have been the same for a few rounds.
"""

from __future__ import annotations

from dataclasses import asdict

from drb.data.sampler_order import Shard, require_one_division
from drb.distributed.peers import Peers

_PATIENCE = 3  # rounds in which no rank has said something else


class Divisions:
    """Compares the ranks' shards inside rounds, after the barrier. Collective over peers."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._words = b""  # of all ranks
        self._rounds = 0  # since they changed

    def compare(self, words: bytes, own: Shard | None) -> bool:
        """Look at what all ranks have said; return whether that will do until a rank says something else.

        words: one integer of each rank, int64 [W] as bytes; 0 of one whose shard is not known. own: this rank's shard.

        Raises:
            ValueError: two ranks' samplers differ in seed or number of samples, or give the same samples.
        """
        self._rounds = self._rounds + 1 if words == self._words else 0
        self._words = words
        if self._rounds < _PATIENCE:
            return False
        if any(words):
            shards = self._peers.gather_json(None if own is None else asdict(own), "samplers")
            require_one_division([None if shard is None else Shard(**shard) for shard in shards])
        return True
