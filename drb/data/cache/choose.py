"""Which samples of a data set a prefill keeps, if it does not keep all: decided by an admission policy, from ids and
labels alone."""

from __future__ import annotations

import numpy as np

from drb.buffer.admission import Columns, Offer, build_admission
from drb.buffer.capacity import capacity_of_rank
from drb.seeding import sample_keys
from drb.types import Int64Array
from drb.variant import name_of

_OFFERED = 4096  # samples at once


def choose_rows(
    sample_ids: Int64Array,
    labels: Int64Array,
    capacity: int | str,
    *,
    record_bytes: int,
    admission: str = "reservoir",
    seed: int = 0,
) -> Int64Array:
    """Return the rows of what a buffer holds that was offered each sample once, in order: int64 [n], ascending.

    Args:
        sample_ids, labels: int64 [N]. record_bytes: of one sample.
        capacity: exemplars (500), bytes ("20GiB") or a share of the data ("30%").
    Raises:
        ValueError: no such capacity or policy, or a policy that must see the samples themselves.
    """
    count = capacity_of_rank(
        capacity, "total", rank=0, world_size=1, record_bytes=record_bytes, num_samples=len(sample_ids)
    )
    policy = build_admission(admission, seed=seed, rank=0)
    if policy.reads:
        raise ValueError(
            f"admission={name_of(policy)} decides by {', '.join(policy.reads)} of each sample, which a prefill has not "
            "read yet; choose reservoir or class_balanced"
        )
    if count >= len(sample_ids):
        return np.arange(len(sample_ids))
    columns, keys = Columns(count), sample_keys(sample_ids, seed)
    for number, first in enumerate(range(0, len(sample_ids), _OFFERED)):
        part = slice(first, first + _OFFERED)
        offer = Offer(sample_ids[part], labels[part], keys[part], number)
        decision = policy.admit(columns, offer)
        columns.put(decision.slots, offer, decision.rows)
    return np.flatnonzero(np.isin(sample_ids, columns.sample_id[: columns.size]))
