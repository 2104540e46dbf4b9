"""One rank of 4096, without the others: what a round sends, holds and computes there.

torch's fake process group answers every collective at once, with what this rank has sent; so every rank looks like
this one, and what is asked of it is what it asks. The rows are nobody's, but their numbers and sizes are right.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from drb.buffer.admission import Offer, build_admission
from drb.buffer.buffer import Buffer
from drb.buffer.positions import PositionTable
from drb.buffer.record import Field, RecordSpec
from drb.buffer.spares import spare_rows
from drb.distributed import groups, peers
from drb.exchange import CollectiveExchange, Exchange, HierarchicalExchange, Peers
from drb.exchange.node_gather import NodeGather
from drb.rehearsal.delivery import allocate_blocks, deliver_on_host
from drb.rehearsal.exemplars import ACTIVE
from drb.rehearsal.intake import Offered
from drb.rehearsal.round import RoundRunner
from drb.sampling.proportions import PROPORTIONS
from drb.sampling.sampler import Sampler

WORLD_SIZE, RANK, PER_NODE = 4096, 2048, 8
CAPACITY = 50
SPEC = RecordSpec({"image": Field(torch.uint8, (3, 64, 64)), "label": Field(torch.int64)})


@dataclass
class Call:
    """One all_to_all: ranks of its group, bytes that left this rank, and how many messages had anything in them."""

    ranks: int
    num_bytes: int
    messages: int


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    """A world of 4096 fake ranks, and the collectives that this one takes part in."""
    made: list[Call] = []
    real, new_group = dist.all_to_all_single, dist.new_group

    def recorded(output: Any, input: Any, output_splits: Any = None, input_splits: Any = None, **kwargs: Any) -> Any:
        ranks = dist.get_world_size(kwargs["group"])
        splits = input_splits or [len(input) // ranks] * ranks
        made.append(Call(ranks, input.numel() * input.element_size(), sum(n > 0 for n in splits)))
        return real(output, input, output_splits, input_splits, **kwargs)

    def fake_group(ranks: list[int], **kwargs: Any) -> Any:
        return new_group(ranks, **{**kwargs, "backend": "fake"})

    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=WORLD_SIZE)
    monkeypatch.setattr(dist, "all_to_all_single", recorded)
    monkeypatch.setattr(dist, "new_group", fake_group)
    monkeypatch.setattr(groups, "_require_one_name", lambda *_: None)  # the other ranks are not there to compare it
    monkeypatch.setattr(NodeGather, "_pass_barrier", lambda gather: np.copyto(gather._places, gather._places[:, [0]]))
    yield made
    dist.destroy_process_group()


def build(kind: str, exemplars: int) -> Exchange:
    world = peers.open_peers(None, 60.0)
    assert isinstance(world, Peers)
    capacities = np.full(WORLD_SIZE, CAPACITY)
    rows = capacities + spare_rows(CAPACITY, 16)
    nodes = [rank // PER_NODE for rank in range(WORLD_SIZE)]
    if kind == "collective":
        return CollectiveExchange(world, nodes, int(rows[RANK]), SPEC.words, exemplars)
    return HierarchicalExchange(world, nodes, rows, capacities, SPEC.words, exemplars)


def full_buffer(rows: np.ndarray) -> Buffer:
    buffer = Buffer(SPEC, CAPACITY, rows, build_admission("fifo", candidates=None, seed=0, rank=RANK))
    for start in range(0, CAPACITY, 10):
        ids = np.arange(start, start + 10)
        minibatch = {
            "image": torch.zeros(10, 3, 64, 64, dtype=torch.uint8),
            "label": torch.zeros(10, dtype=torch.int64),
        }
        buffer.stage(minibatch, Offer(ids, ids % 5, ids.astype(np.uint64), 0))
        buffer.commit()
    return buffer


@pytest.mark.parametrize("exemplars", [7, 64])
@pytest.mark.parametrize("kind", ["collective", "hierarchical"])
def test_a_round_of_one_rank_of_4096(kind: str, exemplars: int, calls: list[Call]) -> None:
    exchange = build(kind, exemplars)
    buffer = full_buffer(exchange.rows)
    sampler = Sampler(exemplars, PROPORTIONS.build("uniform"), seed=0, rank=RANK)
    table = PositionTable(CAPACITY)
    delivery = deliver_on_host(exchange, allocate_blocks(2, exemplars, SPEC.words))
    runner = RoundRunner(table, exchange, sampler, delivery, rank=RANK, world_size=WORLD_SIZE)
    runner.run(0, ACTIVE, Offered(), buffer.hand_in())  # allocates what is reused

    tracemalloc.start()
    seconds, per_round = [], []
    for round_ in range(1, 6):
        calls.clear()
        change = buffer.hand_in()
        start = time.thread_time()
        result = runner.run(round_, ACTIVE, Offered(), change)
        seconds.append(time.thread_time() - start)
        per_round.append(list(calls))
        assert result.exemplars == exemplars
        assert runner.union_size == WORLD_SIZE * CAPACITY
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    exchange.close(together=True)

    rows_bytes = exemplars * SPEC.row_bytes
    for *small, rows in per_round:  # integers, then the rows
        rail = WORLD_SIZE // PER_NODE  # sizes go along it, and inside the node without a message
        if kind == "collective":
            assert [c.ranks for c in small] == [rail, WORLD_SIZE, WORLD_SIZE]
            assert sum(c.messages for c in small) <= rail + WORLD_SIZE + exemplars
        else:  # requests go to a partner on each other node
            assert [c.ranks for c in small] == [rail] * len(small)
            assert sum(c.messages for c in small) <= 2 * rail + exemplars
        assert rows.messages <= exemplars
        assert rows.num_bytes == rows_bytes  # O(r) rows, whatever the world's size
        assert sum(c.num_bytes for c in small) <= 80 * WORLD_SIZE  # bytes: ten integers per rank of the world
    assert peak < 8 * rows_bytes + 300 * WORLD_SIZE  # of memory that a round allocates and lets go
    assert min(seconds) < 0.2  # of CPU, 200 times what it takes: only a Python loop over all ranks would come near it
