"""Exchanges: how a rank reads rows of its peers' buffers. See `base.Exchange` for the contract.

To add one, derive a class from `Transport`, whose `open` returns an `Exchange`; `drb.registry` says how it is found."""

from __future__ import annotations

from drb.distributed.peers import Peers, count_distinct, open_peers
from drb.exchange.base import Exchange
from drb.exchange.collective import CollectiveExchange
from drb.exchange.hierarchical import HierarchicalExchange
from drb.exchange.loopback import LoopbackExchange
from drb.exchange.rma import RmaExchange
from drb.exchange.shared import SharedExchange
from drb.exchange.transport import Sizes, Transport

__all__ = [
    "CollectiveExchange",
    "Exchange",
    "HierarchicalExchange",
    "LoopbackExchange",
    "Peers",
    "RmaExchange",
    "SharedExchange",
    "Sizes",
    "Transport",
    "count_distinct",
    "open_peers",
]
