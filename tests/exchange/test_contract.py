"""The contract of an exchange, alike for every implementation: see drb/exchange/base.py."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ranks import run_ranks

from drb.exchange import (
    CollectiveExchange,
    HierarchicalExchange,
    LoopbackExchange,
    RmaExchange,
    SharedExchange,
    open_peers,
    requests,
    segment,
)
from drb.exchange.gather import CountsGather

WORDS = 5
CAPACITIES = [6, 0, 3, 9]  # a rank may hold nothing
NODES = {  # of the ranks, for `hierarchical`; and for the others where the name begins with theirs
    "in a row": "aabb",  # as launchers number ranks
    "interleaved": "abab",
    "crossed": "abba",
    "uneven": "aaab",  # no rails
    "apart": "abac",
    "one": "aaaa",
    "each its own": "abcd",
}


def build(name, world_size):
    capacities = np.array(CAPACITIES[:world_size])
    name, _, where = name.partition(", ")
    nodes = NODES[where or "one"][:world_size]
    if world_size == 1:
        return LoopbackExchange(2 * int(capacities[0]), WORDS)
    peers = open_peers(None, 30.0)
    if name == "shared":
        return SharedExchange(peers, 2 * capacities, capacities, WORDS)
    if name == "rma":  # tests/mpi runs it
        return RmaExchange(peers, nodes, 2 * capacities, capacities, WORDS)
    if name in NODES:
        return HierarchicalExchange(peers, NODES[name][:world_size], 2 * capacities, capacities, WORDS, 8)
    if name == "counts first":  # what many ranks need
        requests.FIXED_REQUEST_BYTES = 0
    if name == "no shared memory" and peers.rank > 1:  # on the second node; the first has some
        segment.free_shared_memory_bytes = lambda: 100
    return CollectiveExchange(peers, nodes, 2 * int(capacities[peers.rank]), WORDS, max_exemplars=8)


def use(rank, world_size, name):
    """Three rounds of publish, announce, share, fetch; returns what went wrong."""
    exchange, wrong = build(name, world_size), []
    capacity = CAPACITIES[rank]
    rng = np.random.default_rng(rank)
    for round_ in range(3):
        # position p of rank k holds the row (k, round, p, …); rows lie in another order
        changed = round_ != 2  # the last round changes nothing
        if changed:  # copy on write: never into rows that peers may still be reading
            table = capacity * round_ + rng.permutation(capacity)
            exchange.rows[table] = np.column_stack(
                [np.full(capacity, rank), np.full(capacity, round_), np.arange(capacity), *[np.zeros(capacity)] * 2]
            ).astype(np.int64)
        exchange.publish(table, changed)
        messages = exchange.gather_counts(np.array([rank * 10 + round_, 7]))
        if not (messages == [[k * 10 + round_, 7] for k in range(world_size)]).all():
            wrong.append(("announce", round_, messages.tolist()))
        lengths = np.arange(world_size) + round_
        shared = exchange.share(np.full(rank + round_, rank), lengths)
        if [s.tolist() for s in shared] != [[k] * (k + round_) for k in range(world_size)]:
            wrong.append(("share", round_, [s.tolist() for s in shared]))
        # each rank asks for something else, one for nothing; first by owner, then in no order and for some twice
        held = [(k, p) for k in range(world_size) for p in range(CAPACITIES[k])]
        count = 0 if rank == 2 and round_ == 0 else min(5 + rank, len(held), 8)
        drawn = [held[i] for i in rng.choice(len(held), count, replace=False)]
        for asked in (sorted(drawn), (drawn + drawn[::-1])[: min(8, 2 * count)]):
            out = np.full((len(asked), WORDS), -1)
            exchange.fetch(*np.array(asked, np.int64).reshape(-1, 2).T.copy(), out)
            expected = [[k, min(round_, 1), p] for k, p in asked]
            if out[:, :3].tolist() != expected:
                wrong.append(("fetch", round_, out[:, :3].tolist(), expected))
    exchange.erase()
    on_their_way = getattr(exchange, "_requests", None)
    if on_their_way is not None and (on_their_way._incoming.any() or on_their_way._outgoing.any()):
        wrong.append("rows are left after erase")
    exchange.close(together=True)
    return wrong


CASES = [("loopback", 1), *[(n, w) for n in ("collective", "counts first", "shared") for w in (2, 3, 4)]]
CASES += [("in a row", 3), *[(nodes, 4) for nodes in NODES], ("no shared memory, in a row", 4)]
CASES += [(f"collective, {nodes}", 4) for nodes in ("crossed", "uneven", "each its own")]


@pytest.mark.parametrize(("name", "world_size"), CASES, ids=[f"{n}-{w}" for n, w in CASES])
def test_contract(name, world_size):
    assert run_ranks(use, world_size, name) == [[]] * world_size


def gather_without_room(rank, world_size):
    segment.free_shared_memory_bytes = lambda: 100
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("drb").addHandler(handler)
    CountsGather(open_peers(None, 30.0), "aab", needs_memory=False)  # uneven: nobody needs any
    assert not said
    gather = CountsGather(open_peers(None, 30.0), "aaa", needs_memory=False)
    return said, gather.gather_counts(np.array([rank, 7])).tolist()


def test_without_shared_memory_ranks_gather_counts_by_gloo_and_the_first_says_so():
    said, messages = zip(*run_ranks(gather_without_room, 3), strict=True)
    assert messages == ([[0, 7], [1, 7], [2, 7]],) * 3
    assert [len(s) for s in said] == [1, 0, 0]
    assert "exchange counts over Gloo, which takes longer, because shared memory is missing" in said[0][0]
    assert "/dev/shm" in said[0][0]


def try_shared_without_room(rank, world_size):
    segment.free_shared_memory_bytes = lambda: 100
    try:
        SharedExchange(open_peers(None, 30.0), np.array([9, 9]), np.array([5, 5]), WORDS)
    except ValueError as error:
        return str(error)


def test_shared_memory_too_small_is_said_on_every_rank():
    for message in run_ranks(try_shared_without_room, 2):
        assert "/dev/shm" in message
        assert "exchange=collective" in message
