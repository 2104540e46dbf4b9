"""Separates the keys of a start from those of earlier starts in torchrun's store, which outlives restarts.

The ranks of each start agree on a new name that no earlier rank can have known. The number of restarts or the world
size would not do: agents that joined later count from 0, and a start may be cut short.

    rank k    writes a random word of its own, and waits until rank 0's list contains it
    rank 0    writes the list of the words that it sees and the name of this start, until every rank has answered
"""

from __future__ import annotations

import json
import secrets
import time

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # not in its stubs

from drb.distributed.failure import PeerError, first_few

_POLL_S = 0.02
_LIST = "drb/start"


def fresh_store(store: Store, rank: int, world_size: int, timeout_s: float) -> Store:
    """A part of the store in which nothing is written yet, the same for all ranks. Collective.

    Raises:
        PeerError: ranks did not arrive within timeout_s.
    """
    name = _call(store, world_size, timeout_s) if rank == 0 else _answer(store, rank, world_size, timeout_s)
    return PrefixStore(f"drb/{name}", store)


def _call(store: Store, world_size: int, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    name = secrets.token_hex(8)
    words: list[str] = []
    while True:
        seen = [_read(store, f"drb/word/{rank}") for rank in range(1, world_size)]
        if seen != words or world_size == 1:
            words = seen
            store.set(_LIST, json.dumps({"name": name, "words": words}))
        missing = [rank for rank in range(1, world_size) if not store.check([f"drb/{name}/here/{rank}"])]
        if not missing:
            return name
        if time.monotonic() > deadline:
            raise _absent(0, missing, world_size, timeout_s)
        time.sleep(_POLL_S)


def _answer(store: Store, rank: int, world_size: int, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    word = secrets.token_hex(8)
    store.set(f"drb/word/{rank}", word)
    while True:
        listed = json.loads(_read(store, _LIST) or '{"words": []}')
        if rank <= len(listed["words"]) and listed["words"][rank - 1] == word:
            store.set(f"drb/{listed['name']}/here/{rank}", "")
            return str(listed["name"])
        if time.monotonic() > deadline:
            raise _absent(rank, [0], world_size, timeout_s)
        time.sleep(_POLL_S)


def _absent(rank: int, missing: list[int], world_size: int, timeout_s: float) -> PeerError:
    return PeerError(
        f"rank {rank}, start: ranks [{first_few(missing)}] of {world_size} did not arrive within {timeout_s:g} s "
        "(start_timeout_s)"
    )


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
