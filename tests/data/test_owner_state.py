"""The state of an OwnerSampler in the midst of an epoch, gone on with on as many ranks and on others."""

import itertools
import json

import numpy as np
import pytest
from torch.utils.data import DataLoader

from drb.data.ownership import OwnerSampler


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_goes_on_on_other_ranks_without_repeating_or_skipping(shuffle, drop_last):
    num_samples, state, seen = 101, None, []
    for world_size, taken in ((4, 7), (2, 11), (3, 2), (3, None)):
        samplers = [
            OwnerSampler(range(num_samples), 1, rank, world_size, shuffle, drop_last) for rank in range(world_size)
        ]
        for sampler in samplers:
            sampler.set_epoch(5)
            if state is not None:
                sampler.load_state_dict(state)
        lengths = {len(sampler) for sampler in samplers}
        parts = [list(sampler) for sampler in samplers]
        assert {len(part) for part in parts} == lengths == {len(parts[0])}
        owners_of = samplers[0].owner_of(np.arange(num_samples))
        assert all(owners_of[part].tolist() == [rank] * len(part) for rank, part in enumerate(parts))
        states = [sampler.state_dict(taken or len(parts[0])) for sampler in samplers]
        assert all(one == states[0] for one in states)
        state = json.loads(json.dumps(states[0]))
        seen += [index for part in parts for index in part[:taken]]
    if drop_last:
        assert 0.7 * num_samples < len(seen) == len(set(seen))  # owners hold unequal parts of what was left
    else:
        assert set(seen) == set(range(num_samples))
        assert len(seen) < 1.3 * num_samples
    assert state["epoch"] == 5
    assert len(samplers[0]) == num_samples // 3 + (not drop_last)  # the next epoch is whole


def test_on_as_many_ranks_the_order_goes_on_as_it_was():
    sampler, resumed = (OwnerSampler(range(50), 1, 1, 3) for _ in range(2))
    whole = list(sampler)
    resumed.load_state_dict(sampler.state_dict(6))
    assert len(resumed) == len(whole) - 6
    assert list(resumed) == whole[6:]
    assert list(resumed) == list(sampler)  # the next epoch
    resumed.load_state_dict(sampler.state_dict(4))
    first = next(iter(resumed))
    resumed.load_state_dict(resumed.state_dict(1))
    sampler.set_epoch(1)
    assert [first, *resumed] == list(sampler)[4:]


def half_an_epoch(**options):
    """A sampler that has given an epoch and half of the next, of which it is the state; what that gave and has left."""
    sampler = OwnerSampler(range(40), **{"seed": 1, "rank": 0, "world_size": 2, **options})
    list(sampler)
    order = list(sampler)
    return sampler.state_dict(10), order[:10], order[10:]


@pytest.mark.parametrize("read", [0, 3])
def test_a_look_at_a_resumed_sampler_eats_nothing_in_silence(read):
    state, _, left = half_an_epoch()
    resumed, expected = (OwnerSampler(range(40), 1, 0, 2) for _ in range(2))
    resumed.load_state_dict(state)
    list(itertools.islice(iter(resumed), read))
    expected.set_epoch(2)
    if not read:
        assert list(resumed) == left
    else:
        with pytest.warns(UserWarning, match=r"epoch 1 was not given .* next iteration is epoch 2; .* set_epoch\(1\)"):
            assert list(resumed) == list(expected)
    resumed.load_state_dict(state)
    list(itertools.islice(iter(resumed), read))
    resumed.set_epoch(1)
    assert list(resumed) == left
    expected.set_epoch(2)
    assert list(resumed) == list(expected)


def test_a_state_that_was_just_loaded_is_still_the_state():
    """A job may be stopped again before its first minibatch."""
    state, _, left = half_an_epoch()
    for ranks in (2, 3):
        once, twice = (OwnerSampler(range(40), 1, 0, ranks) for _ in range(2))
        once.load_state_dict(state)
        once.set_epoch(1)
        twice.load_state_dict(json.loads(json.dumps(once.state_dict(0))))
        given = list(twice)
        assert given == list(once)
        assert ranks != 2 or given == left


def test_what_a_state_has_left_is_not_dropped_in_silence():
    state, *_ = half_an_epoch()
    sampler = OwnerSampler(range(40), 1, 0, 2)
    sampler.load_state_dict(state)
    sampler.set_epoch(0)  # a loop that does not know where it was
    with pytest.warns(UserWarning, match=r"had left of epoch 1 .* next iteration is epoch 0") as said:
        assert len(list(DataLoader(range(40), sampler=sampler))) == 20
    assert said[0].filename == __file__


@pytest.mark.parametrize("batches", [None, 3])
def test_a_state_of_an_epochs_end_goes_on_with_the_next(batches):
    """Minibatches times their size are more than the samples if the last minibatch is short."""
    sampler, resumed = (OwnerSampler(range(40), 1, 0, 2) for _ in range(2))
    count = len(list(sampler))
    resumed.load_state_dict(sampler.state_dict(8 * batches if batches else count))
    assert len(resumed) == count
    assert list(resumed) == list(sampler)
    resumed.load_state_dict(json.loads(json.dumps(resumed.state_dict(count))))
    resumed.set_epoch(1)  # a loop that counts by itself and goes on in the epoch that it saved
    assert list(resumed) == []
    assert list(resumed) == list(sampler)


def test_a_state_of_another_sampler_is_refused():
    state, *_ = half_an_epoch()
    for options, line in (
        ({"seed": 2}, "saved with seed 1, this one has 2"),
        ({"dataset": range(41)}, "saved with samples 40, this one has 41"),
        ({"shuffle": False}, "saved with shuffle True, this one has False"),
        ({"drop_last": True}, "saved with drop_last False, this one has True"),
    ):
        other = OwnerSampler(**{"dataset": range(40), "seed": 1, "rank": 0, "world_size": 2, **options})
        with pytest.raises(ValueError, match=line):
            other.load_state_dict(state)
    for wrong in ({}, {"epoch": 1}):
        with pytest.raises(ValueError, match="not a state of an OwnerSampler"):
            other.load_state_dict(wrong)


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        (-1, "taken must be at least 0, got -1"),
        (21, "taken must be how many of the 20 indices of this iteration were trained on, got 21"),
        (2.5, r"taken must be an integer, got 2\.5"),
        (None, "taken must be an integer, got None"),
    ],
)
def test_a_count_that_cannot_be_is_refused(taken, message):
    sampler = OwnerSampler(range(40), 1, 0, 2)
    next(iter(sampler))
    with pytest.raises(ValueError, match=message):
        sampler.state_dict(taken)


def test_numbers_of_numpy_are_taken_and_the_state_is_json():
    sampler, plain = OwnerSampler(range(40), np.int64(1), 0, 2), OwnerSampler(range(40), 1, 0, 2)
    for each in (sampler, plain):
        next(iter(each))
    assert json.dumps(sampler.state_dict(np.int64(3))) == json.dumps(plain.state_dict(3))
