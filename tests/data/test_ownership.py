"""Every sample has one owner for good; the sampler is a drop-in for DistributedSampler."""

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


@pytest.mark.parametrize("sample_id", [-1, 10])
def test_the_owner_of_what_is_no_index_is_refused(sample_id):
    with pytest.raises(ValueError, match=f"indices of the 10 samples, got {sample_id}: where ids are no indices"):
        OwnerSampler(range(10), 1, 0, 2).owner_of(np.array([3, sample_id]))


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
