"""An epoch on changing numbers of ranks: every sample once, at its owner, in equally many minibatches on each rank."""

import numpy as np
import pytest
import torch
from data.test_task_loader import source
from hypothesis import given, settings
from hypothesis import strategies as st

from drb.data.epochs import Deal, Segment
from drb.data.loader import TaskLoader
from drb.data.ownership import OwnerSampler, OwnerTable, owned_indices, owners

SEED = 4
changes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.floats(0, 1)), min_size=1, max_size=5)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(st.integers(5, 70), st.integers(0, 3), changes)
def test_every_sample_once_however_often_the_ranks_change(num_samples, epoch, parts):
    earlier, seen = [], []
    parts = [*parts, (2, 3, 1.0)]  # and then to the end
    for world_size, batch_size, share in parts:
        deal = Deal(num_samples, world_size, batch_size, seed=SEED, epoch=epoch, earlier=earlier)
        steps = int(share * deal.num_batches)
        assert deal.share_seen == pytest.approx(len(seen) / num_samples)
        rows = np.zeros(deal.num_batches, int)
        for rank in range(world_size):
            order, bounds = deal.order(rank), deal.bounds(rank)
            assert len(order) == deal.sizes[rank] == bounds[-1]
            sizes = np.diff(bounds)
            assert len(sizes) == deal.num_batches
            assert sizes.max(initial=0) <= batch_size + (not earlier)  # a whole epoch's last may have one more
            rows += sizes
            seen += owned_indices(num_samples, rank, world_size, SEED)[order[: bounds[steps]]].tolist()
        assert deal.rows().tolist() == rows.tolist()
        assert rows.min(initial=1) >= 1  # on some rank
        earlier.append(Segment(world_size, batch_size, steps))
    assert sorted(seen) == list(range(num_samples))


def test_loaders_deal_what_is_left():
    ids, earlier = [], []
    for world_size, steps in ((4, 2), (2, 3), (3, 1), (1, None)):
        loaders = [TaskLoader(source(157), 4, rank=rank, world_size=world_size, seed=2) for rank in range(world_size)]
        whole = [[m["sample_id"] for m in loader.epoch(3, 0, earlier)] for loader in loaders]
        assert len({len(minibatches) for minibatches in whole}) == 1
        for loader, minibatches in zip(loaders, whole, strict=True):
            rest = [m["sample_id"].tolist() for m in loader.epoch(3, 1, earlier)]
            assert rest == [part.tolist() for part in minibatches[1:]]
            ids += minibatches[:steps]
        earlier = [*earlier, Segment(world_size, 4, steps or 0)]
    assert sorted(torch.cat(ids).tolist()) == list(range(1000, 1157))


def test_a_remainder_smaller_than_the_ranks_and_none_at_all():
    loader = TaskLoader(source(9), 4, rank=0, world_size=2, seed=2)
    (first,) = loader.epoch(0)
    assert len(first["label"]) == 5
    almost = [Segment(1, 4, 2)]  # the third minibatch of one rank has one sample left
    ranks = [TaskLoader(source(9), 4, rank=rank, world_size=3, seed=2).epoch(0, 0, almost) for rank in range(3)]
    sizes = [[len(m["label"]) for m in minibatches] for minibatches in ranks]
    assert sorted(sizes) == [[0], [0], [1]]
    assert list(loader.epoch(0, 0, [Segment(1, 4, 3)])) == []


def test_owners_are_those_of_the_loaders():
    ranks = owners(50, 3, SEED)
    for rank in range(3):
        assert np.flatnonzero(ranks == rank).tolist() == sorted(owned_indices(50, rank, 3, SEED).tolist())
        sampler = OwnerSampler(range(50), seed=SEED, rank=rank, world_size=3)
        assert sampler.owner_of(np.array(list(sampler))).tolist() == [rank] * len(sampler)
    table = OwnerTable(np.array([5, -2, 9, 5]), np.array([0, 1, 2, 3]))
    assert table.owner_of(np.array([9, 5, 5, -2])).tolist() == [2, 3, 3, 1]
    with pytest.raises(ValueError, match="sample id 6 of a stored exemplar is not in the data so far"):
        table.owner_of(np.array([5, 6]))
    assert not len(OwnerTable(np.empty(0, np.int64), np.empty(0, np.int64)).owner_of(np.empty(0, np.int64)))
