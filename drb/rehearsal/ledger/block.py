"""A block: some hundred rounds of a rank, and what it was offered meanwhile, as bytes.

Letters: N rounds, C changes of slots, P rows offered, B minibatches, n stored exemplars.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from drb.rehearsal.ledger.coding import pack, unpack
from drb.types import Int64Array


def _none() -> Int64Array:
    return np.empty(0, np.int64)


@dataclass
class Block:
    """All int64.

    Rounds, in the order in which they were run:
        step [N]: the first step that the round drew for. late [N]: how many steps had been taken beyond that one, which
        is 0 but for a round that was run again. exemplars [N]: r. offered [N]: distinct samples that the rank had been
        offered, if that counts. size [N]: the slots that were taken. changes [N]: how many slots had changed.
    Changes, round by round:
        slot [C], and its sample: place [C] in what the rank was offered since it began; -1: the next one of `others`.
        stratum [C] if strata are counted, else none.
    What was offered, unless the formula gives it:
        rows [B] of each minibatch, offered_ids [P].
    The table before the first round, if the block has it:
        table_ids, table_strata [n], and seen: all strata that there had been.
    """

    step: Int64Array = field(default_factory=_none)
    late: Int64Array = field(default_factory=_none)
    exemplars: Int64Array = field(default_factory=_none)
    offered: Int64Array = field(default_factory=_none)
    size: Int64Array = field(default_factory=_none)
    changes: Int64Array = field(default_factory=_none)
    slot: Int64Array = field(default_factory=_none)
    place: Int64Array = field(default_factory=_none)
    others: Int64Array = field(default_factory=_none)
    stratum: Int64Array = field(default_factory=_none)
    rows: Int64Array = field(default_factory=_none)
    offered_ids: Int64Array = field(default_factory=_none)
    table_ids: Int64Array = field(default_factory=_none)
    table_strata: Int64Array = field(default_factory=_none)
    seen: Int64Array = field(default_factory=_none)

    def to_bytes(self) -> bytes:
        return b"".join(pack(getattr(self, name), differences=name in _NEAR) for name in _NAMES)

    @classmethod
    def of(cls, data: bytes) -> Block:
        """What `to_bytes` gave. Raises ValueError if it is damaged."""
        values, at = {}, 0
        for name in _NAMES:
            values[name], at = unpack(data, at)
        if at != len(data):
            raise ValueError("a block has bytes behind its end")
        return cls(**values)


_NAMES = [each.name for each in fields(Block)]
_NEAR = {"step", "offered", "size", "slot", "place"}
