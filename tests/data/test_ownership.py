"""Every sample has one owner for good; the sampler is a drop-in for DistributedSampler."""

import itertools
import json

import numpy as np
import pytest
import torch
from ranks import run_ranks
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from drb.data.ownership import OwnerSampler, owned_indices
from drb.data.with_ids import with_ids

EPOCHS = 6


@pytest.mark.parametrize(("num_samples", "world_size"), [(1, 1), (3, 3), (10, 3), (11, 3), (12, 3), (100, 7)])
def test_owners_are_disjoint_complete_and_even(num_samples, world_size):
    shards = [owned_indices(num_samples, rank, world_size, seed=4) for rank in range(world_size)]
    assert sorted(np.concatenate(shards)) == list(range(num_samples))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_owners_follow_the_seed_and_look_random():
    assert owned_indices(1000, 0, 4, seed=1).tolist() != owned_indices(1000, 0, 4, seed=2).tolist()
    assert abs(np.mean(owned_indices(1000, 0, 4, seed=1)) - 500) < 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((2, 0, 3, 0), "2 samples cannot be shared by 3 ranks"), ((9, 3, 3, 0), "rank=3, world_size=3")],
)
def test_impossible_shares_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        owned_indices(*arguments)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_samples", [10, 11, 12])
def test_without_drop_last_every_sample_comes_every_epoch_at_its_owner(num_samples, shuffle):
    samplers = [OwnerSampler(range(num_samples), 1, rank, 3, shuffle) for rank in range(3)]
    assert {len(sampler) for sampler in samplers} == {4}
    owners = [set(owned_indices(num_samples, rank, 3, seed=1).tolist()) for rank in range(3)]
    repeated = set()
    for _ in range(EPOCHS):
        for sampler, owned in zip(samplers, owners, strict=True):
            indices = list(sampler)
            assert len(indices) == 4
            assert set(indices) == owned
            if len(owned) < 4:
                repeated.add(max(indices, key=indices.count))
    assert len(repeated) == sum(len(owned) for owned in owners if len(owned) < 4)  # all take their turn


@pytest.mark.parametrize("num_samples", [10, 11, 12])
def test_with_drop_last_another_sample_is_left_out_each_epoch(num_samples):
    for rank in range(3):
        sampler = OwnerSampler(range(num_samples), 1, rank, 3, drop_last=True)
        owned = set(owned_indices(num_samples, rank, 3, seed=1).tolist())
        assert len(sampler) == num_samples // 3
        left_out = []
        for _ in range(len(owned)):
            indices = list(sampler)
            assert len(set(indices)) == len(indices) == len(sampler)
            left_out += owned - set(indices)
        assert len(set(left_out)) == len(left_out) == (len(owned) if len(owned) > len(sampler) else 0)


def test_epochs_advance_by_themselves_and_set_epoch_chooses():
    sampler, fresh = OwnerSampler(range(50)), OwnerSampler(range(50))
    epochs = [list(sampler) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    fresh.set_epoch(2)
    assert list(fresh) == epochs[2]
    assert list(OwnerSampler(range(50), shuffle=False)) == list(range(50))


def _own_sampler(rank, world_size):
    torch.distributed.barrier()  # a rank that left while another still connects would look like a crash
    sampler = OwnerSampler(range(10), seed=3)
    return sampler.rank, sampler.world_size, list(sampler)


def test_rank_comes_from_the_process_group():
    results = run_ranks(_own_sampler, 2)
    assert [result[:2] for result in results] == [(0, 2), (1, 2)]
    assert sorted(results[0][2] + results[1][2]) == list(range(10))


class Pairs:
    """Map-style, items (image, label), nothing of torch."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return torch.full((1, 2, 2), index, dtype=torch.uint8), index % 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_plain_dataloader_gives_minibatches_with_ids(num_workers):
    loader = DataLoader(
        with_ids(Pairs(), first_id=100),
        batch_size=3,
        sampler=OwnerSampler(Pairs(), rank=0, world_size=1),
        num_workers=num_workers,
        multiprocessing_context="forkserver" if num_workers else None,
    )
    minibatches = list(loader)
    assert [len(minibatch["label"]) for minibatch in minibatches] == [3, 3, 1]
    ids = torch.cat([minibatch["sample_id"] for minibatch in minibatches])
    assert ids.dtype == torch.int64
    assert sorted(ids.tolist()) == list(range(100, 107))
    images = torch.cat([minibatch["image"] for minibatch in minibatches])
    assert images.shape == (7, 1, 2, 2)
    assert torch.equal(images[:, 0, 0, 0] + 100, ids)
    assert torch.equal(torch.cat([minibatch["label"] for minibatch in minibatches]), (ids - 100) % 3)


def test_with_ids_keeps_dicts_and_their_own_ids():
    items = [{"image": 1, "label": 2, "mask": 3}, {"image": 1, "label": 2, "sample_id": 77}]
    dataset = with_ids(items, first_id=10)
    assert dataset[0] == {"image": 1, "label": 2, "mask": 3, "sample_id": 10}
    assert dataset[1]["sample_id"] == 77
    assert len(dataset) == 2


def test_with_ids_gathers_in_batches_where_the_dataset_can():
    assert not hasattr(with_ids(Pairs()), "__getitems__")
    subset = Subset(TensorDataset(torch.arange(5), torch.arange(5)), [4, 2, 0])
    assert [item["sample_id"] for item in with_ids(subset).__getitems__([2, 1])] == [2, 1]
    assert next(iter(DataLoader(with_ids(subset), batch_size=3)))["image"].tolist() == [4, 2, 0]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 3)])
def test_pillow_images_become_bytes(mode, channels):
    from PIL import Image

    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = Image.fromarray(pixels).convert(mode)
    tensor = with_ids([(image, 0)])[0]["image"]
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (channels, 2, 4)
    if mode == "RGB":
        assert torch.equal(tensor, torch.from_numpy(pixels).permute(2, 0, 1))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def test_with_ids_refuses_what_it_cannot_number():
    with pytest.raises(ValueError, match=r'got Stream; .*sample_id="arrival"'):
        with_ids(Stream())
    with pytest.raises(ValueError, match="got int for index 1"):
        with_ids([(0, 0), 5])[1]


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


def test_concatenated_data_sets_of_the_same_ids_are_refused():
    one, two = (TensorDataset(torch.zeros(size, 2), torch.zeros(size)) for size in (6, 4))
    both = ConcatDataset([with_ids(one), with_ids(two)])
    line = r"have samples of the ids 0 to 5, which would count as the same: .* or with_ids\(next, first_id=6\)"
    for use in (OwnerSampler, with_ids):
        with pytest.raises(ValueError, match=line):
            use(both)
    apart = ConcatDataset([with_ids(one), with_ids(two, first_id=6)])
    for dataset in (apart, with_ids(ConcatDataset([one, two])), with_ids(apart)):
        assert [dataset[index]["sample_id"] for index in range(10)] == list(range(10))
        assert len(OwnerSampler(dataset)) == 10
