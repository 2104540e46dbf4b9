"""Whether the ranks' samplers divide the same samples among them, also those that begin in the midst of a run.

`drb.rehearsal.handshake` looks at it before the first step. From then on each rank says in its round's message of which
shard its minibatches are, in one integer. Ranks need not begin the next data set in the same step, so the shards are
compared once they have been the same for a few rounds.

Letters: W ranks.
"""

from __future__ import annotations

from dataclasses import asdict
from hashlib import blake2b

from drb.data.sampler_order import Shard, require_one_division
from drb.distributed.peers import Peers
from drb.types import Int64Array

_PATIENCE = 3  # rounds in which no rank has said something else


class Divisions:
    """Compares the ranks' shards inside rounds, after the barrier. Collective over peers."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._shard: Shard | None = None
        self._word = 0
        self._words = b""  # of all ranks
        self._rounds = 0  # since they changed

    def word(self, shard: Shard | None) -> int:
        """What this rank says of its shard in its message: 0 if that is not known."""
        if shard is not self._shard:
            digest = b"" if shard is None else blake2b(repr(shard).encode(), digest_size=7).digest()
            self._shard, self._word = shard, int.from_bytes(digest, "big")
        return self._word

    def compare(self, words_W: Int64Array) -> None:
        """Look at what all ranks have said, int64 [W].

        Raises:
            ValueError: two ranks' samplers differ in seed or number of samples, or give the same samples.
        """
        words = words_W.tobytes()
        if words != self._words:
            self._words, self._rounds = words, 0
        elif self._rounds <= _PATIENCE:
            self._rounds += 1
            if self._rounds == _PATIENCE and words_W.any():
                shards = self._peers.gather_json(None if self._shard is None else asdict(self._shard), "samplers")
                require_one_division([None if shard is None else Shard(**shard) for shard in shards])
