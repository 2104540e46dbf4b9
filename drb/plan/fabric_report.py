"""What `drb plan --fabric` has found, in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from drb.machine import format_bytes
from drb.plan.fabric import GRADIENT_BYTES, LARGE_BYTES, Fabric, Link, slow_links, slow_ranks
from drb.plan.report import readable_time

_MOST_NAMED = 8


def describe_fabric(found: Fabric) -> str:
    """Whether a link is slow and which, and the figures of each kind of link and collective."""
    nodes = len(set(found.nodes))
    some = f", {found.left_out} others left out" if found.left_out else ""
    lines = [
        _verdict(found),
        f"  ranks     {len(found.nodes)} on {nodes} node{'s' * (nodes > 1)}; {_links(len(found.links))} measured{some}",
    ]
    for between_nodes, heading in ((False, "within    "), (True, "between   ")):
        if links := found.kind(between_nodes):
            lines.append(f"  {heading}{_of_kind(links)}")
    times = found.collectives
    return "\n".join(
        [
            *lines,
            f"  gradients {format_bytes(GRADIENT_BYTES)} all-reduced in {readable_time(times['gradients'])}",
            f"  rows      {format_bytes(LARGE_BYTES)} of each rank to all in {readable_time(times['rows'])}",
            f"  numbers   one of each rank to all in {readable_time(times['numbers'])}",
        ]
    )


def _verdict(found: Fabric) -> str:
    slow, ranks = slow_links(found), slow_ranks(found)
    if len(found.links) == 1:
        return "There is one link, and nothing to compare it with."
    if not slow:
        return "No link is slow: each has at least half of the median bandwidth of its kind."
    named = ", ".join(f"{link.ranks[0]}-{link.ranks[1]} ({_speed(link)})" for link in slow[:_MOST_NAMED])
    culprits = ", ".join(f"{rank} ({_host(found.nodes[rank])})" for rank in ranks[:_MOST_NAMED])
    return (
        f"SLOW: {len(slow)} of {len(found.links)} links have less than half of the median bandwidth of their kind: "
        f"ranks {named}{_more(slow)}."
        + (f" Most links are slow of rank{'s' * (len(ranks) > 1)} {culprits}{_more(ranks)}." if ranks else "")
    )


def _of_kind(links: Sequence[Link]) -> str:
    """The medians and the slowest link: 'nodes: 21 µs, 3.1 GiB/s (slowest: ranks 0 and 1, 2.9 GiB/s)'."""
    latency = statistics.median(link.latency_s for link in links)
    speed = statistics.median(link.bytes_per_second for link in links)
    slowest = min(links, key=lambda link: link.bytes_per_second)
    named = f"slowest: ranks {slowest.ranks[0]} and {slowest.ranks[1]}, {_speed(slowest)}"
    return f"nodes: {readable_time(latency)}, {format_bytes(speed)}/s ({named})"


def _speed(link: Link) -> str:
    return f"{format_bytes(link.bytes_per_second)}/s"


def _links(count: int) -> str:
    return f"{count} link{'s' * (count != 1)}"


def _host(node: str) -> str:
    """The host of a node's name, which also has a boot id."""
    return node.partition("/")[0]


def _more(things: Sequence[object]) -> str:
    return f" and {len(things) - _MOST_NAMED} more" if len(things) > _MOST_NAMED else ""
