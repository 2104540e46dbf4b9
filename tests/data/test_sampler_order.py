"""A sampler that is sharded a second time is found in the first two steps; others are not accused."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from drb import OwnerSampler, Rehearsal, with_ids

ROWS = 10


def dataset(n=200):
    return TensorDataset(torch.arange(n), torch.zeros(n, dtype=torch.long))


def steps(batches, count=5):
    """How many steps a rehearsal takes before it refuses one."""
    with Rehearsal(20, 4, batch_size=ROWS, verbose=False) as rehearsal:
        for step, batch in enumerate(batches):
            try:
                rehearsal.extend(batch)
            except ValueError as error:
                assert "something has sharded the sampler again" in str(error)  # noqa: PT017 - a count is wanted
                return step
            if step + 1 == count:
                break
    return None


def sampler(data, rank, **options):
    return OwnerSampler(data, seed=4, rank=rank, world_size=2, **options)


class EveryOther:
    """Batches of a batch sampler, every second one: what accelerate makes of it."""

    def __init__(self, batches, first):
        self.batches, self.first = batches, first

    def __iter__(self):
        return (batch for index, batch in enumerate(self.batches) if index % 2 == self.first)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("first_id", [0, 10_000])
def test_batches_sharded_again_are_refused_in_the_second_step(rank, first_id):
    data = dataset()
    batches = EveryOther(BatchSampler(sampler(data, rank), ROWS, drop_last=False), rank)
    assert steps(DataLoader(with_ids(data, first_id), batch_sampler=batches)) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_indices_sharded_again_are_refused_in_the_first_step(rank):
    data = dataset()
    once = sampler(data, rank)  # a wrapper keeps it
    inner = list(once)
    again = DistributedSampler(inner, num_replicas=2, rank=rank, shuffle=False)
    assert steps(DataLoader(with_ids(data), ROWS, sampler=[inner[index] for index in again])) == 0


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_as_it_should_be_goes_on(shuffle, workers):
    data = dataset()
    loader = DataLoader(with_ids(data, 7), ROWS, sampler=sampler(data, 1, shuffle=shuffle), num_workers=workers)
    assert steps(loader, 10) is None


def test_what_is_resumed_skipped_or_read_beside_other_loaders_goes_on():
    data, other = dataset(), dataset()
    resumed = sampler(data, 0)
    iter(resumed)
    resumed.load_state_dict(resumed.state_dict(30))
    assert steps(DataLoader(with_ids(data), ROWS, sampler=resumed)) is None
    skipped = iter(DataLoader(with_ids(data), ROWS, sampler=sampler(data, 0)))
    next(skipped), next(skipped)
    assert steps(skipped) is None
    both = zip(
        DataLoader(with_ids(data), ROWS, sampler=sampler(data, 0)),
        DataLoader(with_ids(other), ROWS, sampler=sampler(other, 0)),
        strict=True,
    )
    assert steps(batch for pair in both for batch in pair) is None


def test_reordering_on_purpose_can_be_said():
    data = dataset()
    with Rehearsal(20, 4, batch_size=ROWS, verbose=False) as rehearsal:
        for batch in DataLoader(with_ids(data), ROWS, sampler=sampler(data, 0, check=False)):
            rehearsal.extend({name: values.flip(0) for name, values in batch.items()})


def test_ids_of_no_sampler_are_nobodys_business():
    list(sampler(dataset(), 0))
    ids = torch.randperm(1000)[:50].reshape(5, 10) + 5000
    assert steps([{"image": row[:, None].float(), "label": row % 3, "sample_id": row} for row in ids]) is None
