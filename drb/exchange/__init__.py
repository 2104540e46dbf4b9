"""Exchanges: how a rank reads rows of its peers' buffers. See `base.Exchange` for the contract."""

from __future__ import annotations

from drb.distributed.peers import Peers, count_distinct, open_peers
from drb.exchange.base import Exchange
from drb.exchange.collective import CollectiveExchange
from drb.exchange.hierarchical import HierarchicalExchange
from drb.exchange.loopback import LoopbackExchange
from drb.exchange.rma import RmaExchange
from drb.exchange.shared import SharedExchange

EXCHANGES = ("auto", "loopback", "collective", "shared", "hierarchical", "rma", "nccl")

__all__ = [
    "EXCHANGES",
    "CollectiveExchange",
    "Exchange",
    "HierarchicalExchange",
    "LoopbackExchange",
    "Peers",
    "RmaExchange",
    "SharedExchange",
    "count_distinct",
    "open_peers",
]
