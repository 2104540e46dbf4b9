"""Rounds of one buffer by itself, at most one in flight: what its peers would read."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from drb.buffer.buffer import Buffer
from drb.buffer.positions import PositionTable

_TABLES: WeakKeyDictionary[Buffer, PositionTable] = WeakKeyDictionary()
_IN_FLIGHT: WeakSet[Buffer] = WeakSet()


def follow(buffer: Buffer, *, by_stratum: bool) -> Buffer:
    """by_stratum: its table is to be in the order of strata."""
    _TABLES[buffer] = PositionTable(buffer.capacity, by_stratum=by_stratum)
    return buffer


def commit(buffer: Buffer) -> None:
    """As a step begins: the round in flight has ended, and what was staged becomes visible to the next."""
    if buffer in _IN_FLIGHT:
        _IN_FLIGHT.remove(buffer)
        buffer.release()
    buffer.commit()


def table_of(buffer: Buffer) -> PositionTable:
    return _TABLES.setdefault(buffer, PositionTable(buffer.capacity))


def hand_in(buffer: Buffer) -> np.ndarray:
    """The next round begins. What it publishes: position → row."""
    if buffer in _IN_FLIGHT:
        buffer.release()
    _IN_FLIGHT.add(buffer)
    table_of(buffer).apply(buffer.hand_in())
    return published(buffer)


def next_round(buffer: Buffer) -> np.ndarray:
    commit(buffer)
    return hand_in(buffer)


def published(buffer: Buffer) -> np.ndarray:
    """By the last round: position → row."""
    return table_of(buffer).rows.copy()
