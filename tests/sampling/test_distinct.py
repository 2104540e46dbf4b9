"""Counting distinct samples: exact while few, close and bounded when many, the same after a resume."""

import numpy as np

from drb.sampling.distinct import DistinctCounter
from drb.seeding import sample_keys


def keys_of(ids):
    return sample_keys(np.asarray(ids, np.int64), seed=0)


def test_repeated_samples_count_once():
    counter = DistinctCounter(limit=100)
    assert counter.count() == 0
    for _ in range(3):
        counter.add(keys_of(np.arange(150)))
    counter.add(keys_of([]))
    assert counter.count() == 150


def test_many_samples_are_estimated_without_bias_in_bounded_memory():
    limit, num_samples = 1000, 50_000
    ratios = []
    for seed in range(40):
        counter = DistinctCounter(limit)
        for ids in np.array_split(np.arange(num_samples), 60):
            counter.add(sample_keys(ids, seed))
            counter.add(sample_keys(ids[:50], seed))
            assert len(counter.state_dict()["keys"]) <= 2 * limit
        ratios.append(counter.count() / num_samples)
    assert np.abs(np.array(ratios) - 1).max() < 4 / np.sqrt(limit)
    assert abs(np.mean(ratios) - 1) < 4 / np.sqrt(limit * len(ratios))


def test_a_resumed_counter_goes_on_alike():
    counter, resumed = DistinctCounter(limit=100), DistinctCounter(limit=100)
    counter.add(keys_of(np.arange(5000)))
    resumed.load_state_dict(counter.state_dict())
    for each in (counter, resumed):
        each.add(keys_of(np.arange(4000, 9000)))
    assert resumed.count() == counter.count()
    assert (resumed.state_dict()["keys"] == counter.state_dict()["keys"]).all()
