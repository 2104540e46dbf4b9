"""What `auto` stands for: the exchange, alike on all ranks, and the engine, which each rank may choose by itself."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from drb.exchange import Transport
from drb.exchange.collective import Collective
from drb.exchange.hierarchical import Hierarchical
from drb.exchange.loopback import Loopback
from drb.exchange.shared import Shared
from drb.rehearsal.auto_exemplars import MeasuringEngine
from drb.rehearsal.engine import AsyncEngine, Engine, InlineEngine
from drb.rehearsal.exemplars import RoundResult
from drb.rehearsal.settings import RehearsalSettings
from drb.variant import name_of

INLINE_BYTES = 1 << 20  # gathering less, from memory of this node, takes less time than handing it to a thread


def choose_transport(given: Transport | None, nodes: Sequence[object]) -> tuple[Transport, str]:
    """The transport and the reason, alike on all ranks. given: by the settings; None: auto.

    Raises:
        ValueError: these ranks cannot have the given one.
    """
    num_ranks, num_nodes = len(nodes), len(set(nodes))
    if given is not None:
        given.check()  # also for one rank, since more will need it
    if num_ranks == 1:
        return Loopback(), "exchange loopback (one rank)"
    if given is not None:
        name = name_of(given)
        if given.one_rank:
            raise ValueError(f"exchange={name} serves one rank, there are {num_ranks}; use exchange=auto")
        if given.one_node and num_nodes > 1:
            raise ValueError(
                f"exchange={name} needs all ranks on one node, they are on {num_nodes}; use exchange=auto or "
                "hierarchical"
            )
        return given, f"exchange {name}"
    if num_nodes == 1:
        return Shared(), "exchange shared (auto: all ranks are on one node)"
    if num_ranks > num_nodes:
        return Hierarchical(), f"exchange hierarchical (auto: {num_ranks} ranks on {num_nodes} nodes)"
    return Collective(), f"exchange collective (auto: the ranks are on {num_nodes} nodes)"


def runs_inline(
    transport: Transport,
    round_bytes: int,
    *,
    has_core: bool,
    has_gpu: bool,
    counts_strata: bool = False,
    depth: int = 1,
) -> bool:
    """Whether asynchronous="auto" runs rounds on the training thread.

    Short ones, of one rank by itself. And those with the ranks of a node, if a worker would have no core of its own: it
    takes more from training than the round, which meets in memory (but for counts by stratum, which go by socket).

    has_core: this rank's node has a core for a worker of each of its ranks. Never with a GPU: there the training thread
    queues work ahead, and in a round it would wait for what reads the rows of the one before.
    """
    if round_bytes > INLINE_BYTES or has_gpu:
        return False
    is_short = transport.meets_in_memory and not counts_strata and depth == 1
    return transport.one_rank or (is_short and not has_core)


def choose_engine(
    settings: RehearsalSettings, transport: Transport, round_bytes: int, counts_strata: bool, has_core: bool
) -> tuple[Engine[RoundResult], str]:
    """The engine and the reason; the same rounds give the same exemplars on either."""
    if settings.is_auto:
        return MeasuringEngine(), "rounds asynchronous"
    if settings.asynchronous != "auto":
        return (AsyncEngine(), "rounds asynchronous") if settings.asynchronous else (InlineEngine(), "rounds inline")
    has_gpu, depth = torch.cuda.is_available(), settings.depth
    if runs_inline(
        transport, round_bytes, has_core=has_core, has_gpu=has_gpu, counts_strata=counts_strata, depth=depth
    ):
        reason = "shorter than a hand-off to a thread" if transport.one_rank else "short, and no core is free"
        return InlineEngine(), f"rounds inline (auto: {reason})"
    return AsyncEngine(), "rounds asynchronous (auto)"


def has_core(greetings: Sequence[Mapping[str, Any]], rank: int) -> bool:
    """Whether this rank's share of its node's cores is more than its training takes."""
    own = greetings[rank]
    ranks = [greeting for greeting in greetings if greeting["node"] == own["node"]]
    cores = [int(greeting["cores"], 16) for greeting in ranks]
    together = functools.reduce(operator.or_, cores).bit_count()
    return bool(min(int(own["cores"], 16).bit_count(), together / len(ranks)) >= own["threads"] + 1)
