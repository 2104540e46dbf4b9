"""What is offered to an admission policy, and what it decides.

Letters: B offered samples, A admitted ones, n stored exemplars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from drb.types import Int64Array, UInt64Array


@dataclass(frozen=True)
class Offer:
    """The samples of one minibatch. sample_id, stratum int64 [B]; key uint64 [B]; round: of the minibatch.

    fields: what the policy `reads`, [B, *shape] each, on the CPU, as it would be stored.
    """

    sample_id: Int64Array
    stratum: Int64Array
    key: UInt64Array
    round: int
    fields: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample_id)


@dataclass(frozen=True)
class Decision:
    """Row `rows[i]` of the offer takes slot `slots[i]`. int64 [A] each, rows ascending, slots distinct.

    Slots from `size` on are new, in order; the others are evictions.
    """

    rows: Int64Array
    slots: Int64Array

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Removal:
    """Slots `slots` are freed, then what lies in slot `sources[i]` moves to slot `targets[i]`, all at once.

    int64 [D], and [V] twice; afterwards slots 0 … size-D-1 are taken. Slots and sources ascending and disjoint, unless
    the policy orders its slots anew: then all that stay are sources, in their new order.
    """

    slots: Int64Array
    sources: Int64Array
    targets: Int64Array

    def __len__(self) -> int:
        return len(self.slots)


_EMPTY: Int64Array = np.empty(0, np.int64)
NOTHING = Decision(_EMPTY, _EMPTY)
