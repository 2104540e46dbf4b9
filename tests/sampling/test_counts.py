"""The replicated counts: after any updates, every rank knows exactly what every rank holds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drb.sampling.counts import UnionCounts

holdings = st.dictionaries(st.integers(-3, 9), st.integers(1, 20), max_size=5)


def arrays(held):
    values = np.array(sorted(held), np.int64)
    return values, np.array([held[v] for v in values.tolist()], np.int64)


@given(st.integers(1, 3).flatmap(lambda w: st.lists(st.lists(holdings, min_size=w, max_size=w), max_size=5)))
def test_every_rank_knows_what_every_rank_holds(rounds):
    world_size = len(rounds[0]) if rounds else 1
    replicas = [UnionCounts(world_size) for _ in range(world_size)]
    for held_by_rank in rounds:
        changes = [replicas[r].changes(r, *arrays(held)) for r, held in enumerate(held_by_rank)]
        for replica in replicas:
            for rank, pairs in enumerate(changes):
                replica.apply(rank, pairs)
            assert (np.diff(replica.values) > 0).all()
            for rank, held in enumerate(held_by_rank):
                known = dict(zip(replica.values.tolist(), replica.counts[rank].tolist(), strict=True))
                assert {s: n for s, n in known.items() if n} == held


def test_only_changes_are_told():
    counts = UnionCounts(2)
    first = counts.changes(1, np.array([4, 7]), np.array([10, 2]))
    assert first.tolist() == [4, 10, 7, 2]
    counts.apply(1, first)
    assert counts.changes(1, np.array([4, 7]), np.array([10, 2])).size == 0
    assert counts.changes(1, np.array([4, 9]), np.array([10, 1])).tolist() == [9, 1, 7, 0]  # 7 is gone
