"""The order of a source: every epoch all of it in another order, by owners that stay."""

import numpy as np
import pytest
from scipy.stats import chi2

from drb.data.mix.keyed import table, walk
from drb.data.mix.order import VIRTUAL_OWNERS, Size, SourceOrder
from drb.seeding import mix64

LARGE = 70_001  # more than a table holds


def p_value(counts, expected, dof):
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), dof)


def test_small_permutations_are_uniform():
    keys = mix64(np.arange(40_000, dtype=np.uint64))
    for size in (2, 3, 5):
        drawn = table(size, keys) @ size ** np.arange(size)
        counts = np.unique(drawn, return_counts=True)[1]
        assert len(counts) == np.prod(np.arange(1, size + 1))
        assert p_value(counts, len(keys) / len(counts), len(counts) - 1) > 1e-3


def test_large_permutations_are_permutations_and_uniform_by_place():
    indices = np.arange(LARGE)
    key = mix64(np.arange(1, dtype=np.uint64))
    there = walk(indices, LARGE, key, largest=LARGE)
    assert (np.sort(there) == indices).all()
    assert (walk(there, LARGE, key, largest=LARGE, back=True) == indices).all()
    assert abs(np.corrcoef(there, indices)[0, 1]) < 0.02
    keys = mix64(np.arange(20_000, dtype=np.uint64))
    for index in (0, 1, LARGE - 1):
        places = walk(np.full(len(keys), index), LARGE, keys, largest=LARGE)
        counts = np.bincount(places * 50 // LARGE, minlength=50)
        assert p_value(counts, len(keys) / 50, 49) > 1e-3
    pair = (
        walk(np.zeros(len(keys), int), LARGE, keys, largest=LARGE),
        walk(np.ones(len(keys), int), LARGE, keys, largest=LARGE),
    )
    cells = (pair[0] * 8 // LARGE) * 8 + pair[1] * 8 // LARGE
    assert p_value(np.bincount(cells, minlength=64), len(keys) / 64, 63) > 1e-3


@pytest.mark.parametrize("count", [1, 2, 47, 48, 49, 500, VIRTUAL_OWNERS * 512 + 5])
def test_every_epoch_has_every_sample_once_in_another_order(count, monkeypatch):
    monkeypatch.setattr("drb.data.mix.order.LARGEST_TABLE", 512)
    order = SourceOrder(3, 1, [Size(0, count)])
    epochs = [order.samples(np.arange(epoch * count, (epoch + 1) * count)) for epoch in range(2)]
    for samples in epochs:
        assert (np.bincount(samples, minlength=count) == 1).all()
    assert count <= VIRTUAL_OWNERS or (epochs[0] != epochs[1]).any()
    assert (SourceOrder(4, 1, [Size(0, count)]).samples(np.arange(count)) != epochs[0]).any() or count < 3
    for sample in {0, count // 2, count - 1}:
        found = order.numbers(sample, 2 * count)
        assert [np.flatnonzero(samples == sample)[0] + i * count for i, samples in enumerate(epochs)] == found.tolist()
        assert order.numbers(sample, int(found[1])).tolist() == found[:1].tolist()


def test_a_sample_stays_with_its_owner_and_numbers_find_it_when_the_source_grows_twice():
    sizes = [Size(0, 100), Size(300, 160, 3), Size(620, 171, 5)]
    order, stop = SourceOrder(0, 0, sizes), 620 + 3 * 171
    samples = order.samples(np.arange(stop))
    assert (samples[:300] < 100).all()
    assert (samples[300:620] < 160).all()
    times = np.zeros((8, 171), int)
    for number, sample in enumerate(samples.tolist()):
        times[order.epoch_of(number), sample] += 1
    held = np.repeat([100, 160, 171], [3, 2, 3])
    assert (times == (np.arange(171) < held[:, None])).all()
    assert [order.epoch_end(number) for number in (0, 1, 299, 300, 301, 460, 461, 621)] == [
        0, 100, 300, 300, 460, 460, 620, 791
    ]  # fmt: skip
    for world_size in (1, 2, 3, 4, 6, 8, 48):
        owner = {}
        for rank in range(world_size):
            numbers = order.owned(0, stop, rank, world_size)
            assert (np.diff(numbers) > 0).all()
            for sample in samples[numbers].tolist():
                assert owner.setdefault(sample, rank) == rank
            few = order.owned(310, 330, rank, world_size)  # the way that is quick for few epochs
            assert few.tolist() == numbers[(numbers >= 310) & (numbers < 330)].tolist()
        assert len(owner) == 171
    for sample in (0, 99, 100, 170):
        assert order.numbers(sample, stop).tolist() == np.flatnonzero(samples == sample).tolist()


def test_subsets_of_successive_epochs_of_training_are_uniform_by_sample():
    """Another 40 of 100 in each epoch of training: every sample equally often among the first 40."""
    counts = np.zeros(100)
    for seed in range(3000):
        np.add.at(counts, SourceOrder(seed, 0, [Size(0, 100)]).samples(np.arange(100, 140)), 1)
    statistic = ((counts - 1200) ** 2 / 1200).sum() * 99 / 60  # of 40 distinct out of 100
    assert 1e-3 < chi2.sf(statistic, 99) < 1 - 1e-3
