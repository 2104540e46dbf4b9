"""`drb plan --fabric`: every link is measured under the same load, and a slow rank or link is named."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import pytest
import torch.distributed as dist
from ranks import run_ranks

from drb.distributed.world import World
from drb.plan.command import main
from drb.plan.fabric import Fabric, Link, measure_fabric, rounds_of, slow_links, slow_ranks
from drb.plan.fabric_report import describe_fabric

SLOW_RANK = 2
TIMES = {"gradients": 0.031, "rows": 0.004, "numbers": 6e-5}


@pytest.mark.parametrize("nodes", ["aaa", "aabb", "aaabbbccc", "abab", "aaab", "ab", "aaaabbbbccccddddeeee"])
def test_all_ranks_are_paired_once_and_no_rank_twice_at_a_time(nodes: str):
    rounds = rounds_of(nodes)
    pairs = [pair for each in rounds for pair in each]
    assert sorted(pairs) == list(itertools.combinations(range(len(nodes)), 2))
    for each in rounds:
        assert max(Counter(itertools.chain(*each)).values()) == 1
        assert len({nodes[low] == nodes[high] for low, high in each}) == 1  # nodes' own links by themselves


def test_pairs_between_equal_nodes_load_every_node_alike_and_are_a_sample_on_many_nodes():
    nodes = [f"n{rank // 8}" for rank in range(8 * 300)]
    rounds = rounds_of(nodes)
    assert 64 <= len(rounds) <= 64 + 7
    for each in rounds[7:]:
        loads = Counter(nodes[rank] for pair in each for rank in pair)
        assert set(loads.values()) == {8}
        assert len(loads) == 300


def on_a_rank(rank: int, world_size: int) -> tuple[list[int], int, str]:
    send = dist.send

    def slow_send(message, *arguments, **named):
        if rank == SLOW_RANK and len(message) > 1000:
            time.sleep(0.08)
        return send(message, *arguments, **named)

    dist.send = slow_send
    try:
        found = measure_fabric(World(rank, world_size, local_world_size=2, node=f"n{rank // 2}/boot"), 20.0)
    finally:
        dist.send = send
    return slow_ranks(found), len(found.links), describe_fabric(found)


def test_a_slow_rank_is_named_on_all_ranks():
    for ranks, count, text in run_ranks(on_a_rank, 4):
        assert ranks == [SLOW_RANK]
        assert count == 6
        assert "SLOW: 3 of 6 links" in text
        assert "Most links are slow of rank 2 (n1)." in text
        assert "4 on 2 nodes; 6 links measured" in text


def fabric(speeds: dict[tuple[int, int], float]) -> Fabric:
    links = tuple(Link(pair, sum(pair) % 2 == 1, 2e-5, speed * 2**30) for pair, speed in speeds.items())
    return Fabric(("a/1", "b/1", "a/1", "b/1"), links, 0, TIMES)


def test_a_slow_link_is_named_and_compared_with_links_of_its_kind_only():
    even = fabric({(0, 2): 8, (1, 3): 7, (0, 1): 1, (0, 3): 1.1, (1, 2): 0.9, (2, 3): 1})
    assert slow_links(even) == []
    lines = describe_fabric(even).splitlines()
    assert lines[0].startswith("No link is slow")
    assert lines[2] == "  within    nodes: 20 µs, 7.5 GiB/s (slowest: ranks 1 and 3, 7 GiB/s)"
    assert lines[3] == "  between   nodes: 20 µs, 1 GiB/s (slowest: ranks 1 and 2, 921.6 MiB/s)"
    assert lines[4] == "  gradients 25 MiB all-reduced in 31 ms"
    one = fabric({(0, 2): 8, (1, 3): 7, (0, 1): 1, (0, 3): 0.4, (1, 2): 0.9, (2, 3): 1})
    assert [link.ranks for link in slow_links(one)] == [(0, 3)]
    assert slow_ranks(one) == []
    assert describe_fabric(one).splitlines()[0].endswith("of their kind: ranks 0-3 (409.6 MiB/s).")


def test_one_rank_has_no_links(capsys):
    assert main(["--fabric"]) == 1
    assert "drb: error: one rank has no links" in capsys.readouterr().err
