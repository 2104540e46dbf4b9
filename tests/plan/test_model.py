"""What the model says a round sends is what the exchanges send, and its arithmetic is right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from drb.buffer.record import Field, RecordSpec
from drb.distributed import peers
from drb.exchange import CollectiveExchange, HierarchicalExchange, SharedExchange
from drb.exchange.semaphores import Semaphore
from drb.plan.forecast import Job, forecast, table
from drb.plan.model import (
    Costs,
    Machine,
    Place,
    cpu_seconds,
    exchange_bytes,
    fit_line,
    round_seconds,
    seconds,
    traffic,
)
from drb.plan.probe import with_surplus
from drb.rehearsal.assemble import assemble
from drb.rehearsal.auto_exemplars import Line
from drb.rehearsal.settings import RehearsalSettings
from drb.sampling.proportions import build_proportions
from drb.sampling.sampler import Sampler

SPEC = RecordSpec({"image": Field(torch.uint8, (3, 8, 8)), "label": Field(torch.int64)})
COSTS = Costs(
    round_s=1e-4,
    collective_s=1e-5,
    message_s=1e-6,
    wait_s=2e-6,
    gather_speed=1e9,
    node_speed=1e9,
    network_speed=1e8,
)
MACHINE = Machine(dataclasses.replace(COSTS, latency_s=1e-3), COSTS, cores=4)
CAPACITY = 40
RANK = 96  # the first of its node, which makes what the others attach to


@pytest.fixture
def sent(monkeypatch):
    """A fake world of 512 ranks, and per all_to_all: its ranks, and bytes per rank, of this one's messages."""
    made = []
    real, new_group = dist.all_to_all_single, dist.new_group

    def recorded(output, input, output_splits=None, input_splits=None, **kwargs):
        ranks = dist.get_world_size(kwargs["group"])
        row_bytes = input.numel() * input.element_size() / max(1, len(input))
        splits = np.array(input_splits or [len(input) // ranks] * ranks) * row_bytes
        made.append((ranks, splits.sum()))
        return real(output, input, output_splits, input_splits, **kwargs)

    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=512)
    monkeypatch.setattr(dist, "all_to_all_single", recorded)
    monkeypatch.setattr(dist, "new_group", lambda ranks, **kwargs: new_group(ranks, **{**kwargs, "backend": "fake"}))
    yield made
    dist.destroy_process_group()


@pytest.fixture
def posts(monkeypatch):
    """Every post of this rank; nobody is there to wait for."""
    made = []
    monkeypatch.setattr(Semaphore, "post", lambda semaphore: made.append(semaphore))
    monkeypatch.setattr(Semaphore, "take", lambda semaphore: True)
    return made


@pytest.mark.parametrize("exemplars", [7, 64])
@pytest.mark.parametrize("kind", ["collective", "hierarchical", "shared", "uneven nodes"])
def test_a_round_sends_what_the_model_says(kind, exemplars, sent, posts):
    place = Place(512, 24 if kind == "uneven nodes" else 8)
    kind = "hierarchical" if kind == "uneven nodes" else kind
    world = peers.open_peers(None, 60.0)
    rows = np.full(512, CAPACITY)
    if kind == "collective":
        exchange = CollectiveExchange(world, place.names, CAPACITY, SPEC.words, exemplars)
    elif kind == "hierarchical":
        exchange = HierarchicalExchange(world, place.names, rows, rows, SPEC.words, exemplars)
    else:
        place = Place(8, 8)
        rows = rows[:8]
        exchange = SharedExchange(world.subset(list(range(RANK, RANK + 8))), rows, rows, SPEC.words)
    number = place.world_size
    sampler = Sampler(exemplars, build_proportions("uniform").groups, seed=0, rank=RANK % number)
    draw = sampler.draw(0, np.full((number, 1), CAPACITY), np.full(number, CAPACITY))
    exchange.publish(np.arange(CAPACITY), True)
    sent.clear()
    exchange.announce(np.zeros(5, np.int64))
    exchange.fetch(draw.owner, draw.position, np.empty((exemplars, SPEC.words), np.int64))
    exchange.close(together=True)

    told = traffic(kind, place, exemplars, SPEC.row_bytes)
    expected = told.collectives
    assert len(posts) == (1 if place.is_even else 0)
    assert told.waits == (1 - 1 / 8 if place.is_even else 0)  # of the 8 of a node, the last to come does not wait
    assert len(sent) == len(expected)
    for (ranks, num_bytes), collective in zip(sent, expected, strict=True):
        assert collective.messages == ranks - 1
        to_others = collective.node_bytes + collective.network_bytes
        own = 1 / ranks  # what a rank keeps for itself, on average over draws
        if not place.is_even and collective.name in ("values", "rows"):
            own = (21 * 24 * 24 + 8 * 8) / 512**2  # and over ranks: 21 nodes of 24 ranks and one of 8
        assert to_others == pytest.approx(num_bytes * (1 - own), rel=1e-9)
    assert exchange_bytes(kind, place, exemplars, SPEC.words, CAPACITY) == exchange.staging_bytes


def test_seconds_are_the_sum_of_what_is_sent():
    sent = traffic("collective", Place(8, 4), exemplars=10, row_bytes=1000)
    sizes, indices, rows = sent.collectives
    assert sent.waits == 3 / 4
    assert (sizes.node_messages, sizes.network_messages) == (0, 1)  # along the rail
    assert (indices.node_messages, indices.network_messages) == (3, 4)
    assert (sizes.node_bytes, sizes.network_bytes) == (0, 40)
    assert (indices.node_bytes, indices.network_bytes) == (3 * 88, 4 * 88)
    assert (rows.node_bytes, rows.network_bytes) == (3750, 5000)
    node, network = 264 + 3750, 40 + 352 + 5000
    expected = 1e-4 + 3 / 4 * 2e-6 + 10_000 / 1e9 + 3 * 1e-5 + 15 * 1e-6 + node / 1e9 + 4 * network / 1e8
    assert seconds(sent, COSTS, per_node=4) == pytest.approx(expected)
    assert seconds(sent, MACHINE.clock, per_node=4) == pytest.approx(expected + 3 * 1e-3)


def test_ranks_that_share_memory_send_nothing():
    sent = traffic("shared", Place(6, 6), exemplars=10, row_bytes=1000)
    assert (sent.messages, sent.sent_bytes, sent.waits) == (0, 0, 5 / 6)
    assert seconds(sent, MACHINE.clock, per_node=6) == pytest.approx(1e-4 + 5 / 6 * 2e-6 + 10_000 / 1e9)
    of_nodes = traffic("hierarchical", Place(64, 8), 10, 1000)
    along_rails = traffic("collective", Place(8, 1), 10, 1000)
    assert of_nodes.messages == along_rails.messages  # inside the nodes ranks only wait
    assert of_nodes.waits == 7 / 8


def test_ranks_that_share_cores_wait_for_one_another():
    sent = traffic("shared", Place(64, 64), 7, 1000)
    assert round_seconds(sent, MACHINE, per_node=64) == pytest.approx(cpu_seconds(sent, MACHINE, 64) * 16)
    assert round_seconds(sent, MACHINE, per_node=1) == seconds(sent, MACHINE.clock, 1)


def test_waits_cost_more_where_a_node_has_more_ranks_than_cores():
    crowded = dataclasses.replace(MACHINE, shared_core_s=1e-5)

    def more(per_node):
        sent = traffic("shared", Place(per_node, per_node), 7, 1000)
        return cpu_seconds(sent, crowded, per_node) - cpu_seconds(sent, MACHINE, per_node)

    assert [more(ranks) for ranks in (1, 2, 4)] == [0, 0, 0]
    assert [more(ranks) for ranks in (5, 8, 16)] == pytest.approx([4 / 5 * 1e-5, 7 / 8 * 1e-5, 15 / 16 * 1e-5])


def test_what_two_ranks_take_longer_than_one_is_waiting_or_constant():
    shared, sent = traffic("shared", Place(2, 2), 7, 1000), traffic("collective", Place(2, 2), 7, 1000)
    start = dataclasses.replace(COSTS, wait_s=0.0)
    alone, over = seconds(shared, start, 2), 6e-5
    fitted = with_surplus(start, shared, alone + over, 2)
    assert (fitted.round_s, fitted.wait_s) == pytest.approx((start.round_s, over / 0.5))
    assert seconds(traffic("shared", Place(8, 8), 7, 1000), fitted, 8) == pytest.approx(alone + over / 0.5 * 7 / 8)
    fitted = with_surplus(start, sent, seconds(sent, start, 2) + over, 2)
    assert (fitted.round_s, fitted.wait_s) == pytest.approx((start.round_s + over, 0))
    assert with_surplus(start, shared, 0.0, 2) == start


def test_rma_reads_from_other_nodes_and_copies_on_its_own():
    inside = traffic("rma", Place(8, 8), exemplars=10, row_bytes=1000)
    assert (inside.messages, inside.sent_bytes, inside.gathered_bytes, inside.waits) == (0, 0, 10_000, 7 / 8)
    between = traffic("rma", Place(8, 4), exemplars=10, row_bytes=1000)
    assert (between.messages, between.gathered_bytes, between.read_bytes) == (1, 5000, 5040)
    expected = 1e-4 + 3 / 4 * 2e-6 + 5e-6 + 1e-5 + 1e-6 + 4 * (48 + 5040) / 1e8
    assert seconds(between, COSTS, per_node=4) == pytest.approx(expected)
    assert seconds(between, MACHINE.clock, per_node=4) == pytest.approx(expected + 5e-3)


def test_one_rank_sends_nothing():
    sent = traffic("loopback", Place(1, 1), 7, 1000)
    assert (sent.messages, sent.sent_bytes, sent.gathered_bytes) == (0, 0, 7000)


def test_a_line_is_fitted_to_messages():
    assert fit_line([(1, 3.0), (2, 5.0), (4, 9.0)]) == pytest.approx((1.0, 2.0))
    assert fit_line([(1, 3.0), (2, 2.0)]) == (2.5, 0.0)  # more messages never cost less


def test_memory_is_what_a_rehearsal_would_say():
    parts = assemble(RehearsalSettings(CAPACITY, 7), SPEC, 12, None)
    told = forecast(Job(12, 7, 12, CAPACITY, SPEC.row_bytes), Place(1, 1), MACHINE, Line(0.1))
    assert told.memory == parts.memory_bytes()
    counting = assemble(RehearsalSettings(CAPACITY, 7, proportions="stream"), SPEC, 12, None)
    job = Job(12, 7, 12, CAPACITY, SPEC.row_bytes, counts_offers=True)
    assert forecast(job, Place(1, 1), MACHINE, Line(0.1)).memory == counting.memory_bytes()
    assert counting.memory_bytes()["metadata"] > told.memory["metadata"] + 3_000_000


def test_a_round_for_several_steps_has_their_time_and_their_rows():
    job = Job(batch_size=12, exemplars=7, candidates=12, capacity=CAPACITY, row_bytes=SPEC.row_bytes)
    ahead = dataclasses.replace(job, depth=2, interval=4)
    place, step = Place(2, 1), Line(2e-3)
    each, every_4 = forecast(job, place, MACHINE, step), forecast(ahead, place, MACHINE, step)
    of_28 = traffic("collective", place, 28, SPEC.row_bytes)
    assert (every_4.messages, every_4.sent_bytes) == (of_28.messages, of_28.sent_bytes)
    assert every_4.round_s == pytest.approx(round_seconds(of_28, MACHINE, 1))
    assert every_4.cpu_s == pytest.approx(cpu_seconds(of_28, MACHINE, 1) / 4)
    assert (each.hidden, every_4.hidden) == (False, True)  # 3 ms in 2, and 3 ms in 8
    assert every_4.slowdown == pytest.approx(each.copy_s / 2e-3)
    parts = assemble(RehearsalSettings(CAPACITY, 7, depth=2, interval=4), SPEC, 12, None)
    assert forecast(ahead, Place(1, 1), MACHINE, step).memory == parts.memory_bytes()


def test_a_forecast_says_what_is_hidden_and_what_it_costs():
    job = Job(batch_size=56, exemplars=7, candidates=14, capacity=1000, row_bytes=150_568)
    hidden = forecast(job, Place(2, 1), MACHINE, Line(1.0), Line(0.0, 0.02))
    assert hidden.exchange == "collective"
    assert hidden.hidden
    assert hidden.most_hidden == 40
    assert hidden.slowdown == pytest.approx(77 * 150_568 / 1e9)
    late = forecast(job, Place(2, 1), MACHINE, Line(0.1), Line(0.0, 0.02))
    assert not late.hidden
    assert late.most_hidden == 4
    assert late.slowdown == pytest.approx((0.14 - 0.1 + 77 * 150_568 / 1e9) / 0.1)
    few = dataclasses.replace(job, exemplars=1, row_bytes=4096)
    short = forecast(few, Place(2, 2), dataclasses.replace(MACHINE, cores=3), Line(1.0), Line(0.0, 0.02))
    assert short.exchange == "shared"
    assert (short.inline, short.hidden) == (True, False)
    assert not forecast(few, Place(2, 2), dataclasses.replace(MACHINE, cores=4), Line(1.0)).inline
    assert short.slowdown == pytest.approx(0.02 + 71 * 4096 / 1e9)
    lines = table([hidden, late, short]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
