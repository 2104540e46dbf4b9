"""A sampler that is sharded a second time is found in the first two steps; others are not accused."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from ranks import run_cases
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


def test_a_loader_of_an_earlier_rehearsal_accuses_no_later_one():
    data = dataset()
    kept = sampler(data, 0)
    assert steps(DataLoader(with_ids(data), ROWS, sampler=kept)) is None
    owned = list(sampler(data, 0))
    assert steps(DataLoader(with_ids(data), ROWS, sampler=owned[::-1])) is None
    assert steps(DataLoader(with_ids(data), ROWS, shuffle=True)) is None


def test_ids_that_are_not_distinct_are_named():
    data = dataset()
    kept = OwnerSampler(data, seed=9, rank=0, world_size=2)  # an error that is caught may keep it for a while
    first = next(iter(kept))
    batch = {"x": torch.zeros(ROWS, 2), "label": torch.zeros(ROWS), "sample_id": torch.full((ROWS,), first)}
    with (
        Rehearsal(20, 4, batch_size=ROWS, verbose=False) as rehearsal,
        pytest.raises(ValueError, match="sample ids of the minibatch are not distinct"),
    ):
        rehearsal.extend(batch)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([0, 1, 2, 3, 5, 6, 7, 8, 9], "10 samples were left out"),
        ([0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 9], "samples come a second time"),
    ],
)
def test_what_is_left_out_or_repeated_later_is_said_once_and_training_goes_on(changed, message):
    data = dataset()
    batches = list(DataLoader(with_ids(data), ROWS, sampler=(owner := sampler(data, 0))))
    with Rehearsal(20, 4, batch_size=ROWS, verbose=False) as rehearsal:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for index in changed:
                rehearsal.extend(batches[index])
        assert len(said) == 1
        assert message in str(said[0].message)
        assert said[0].filename == __file__
        for batch in DataLoader(with_ids(data), ROWS, sampler=owner):  # another epoch, in order
            rehearsal.extend(batch)


def test_epochs_that_are_left_early_and_two_rehearsals_of_one_stream_go_on():
    data = dataset()
    loader = DataLoader(with_ids(data), ROWS, sampler=sampler(data, 0))
    settings = {"batch_size": ROWS, "verbose": False}
    with Rehearsal(20, 4, **settings) as one, Rehearsal(30, 4, **settings) as other:
        for last in (9, 4, 0, 9):
            for step, batch in enumerate(loader):
                one.extend(batch)
                other.extend(batch)
                if step == last:
                    break


def test_reordering_on_purpose_can_be_said():
    data = dataset()
    with Rehearsal(20, 4, batch_size=ROWS, verbose=False) as rehearsal:
        for batch in DataLoader(with_ids(data), ROWS, sampler=sampler(data, 0, check=False)):
            rehearsal.extend({name: values.flip(0) for name, values in batch.items()})


def say(rank, world_size, changed, first_id, earlier):
    """What is said where rank 1's sampler has something else; None if all goes on.

    earlier: minibatches of another task before, of which rank 1 has one more.
    """
    options = {"seed": 4, "rank": rank, "world_size": world_size} | (changed if rank == 1 else {})
    data = dataset(options.pop("n", 200))
    loader = DataLoader(with_ids(data, first_id * rank), ROWS, sampler=OwnerSampler(data, **options))
    batches = loader
    if earlier:
        before = DataLoader(with_ids(dataset(), 5000), ROWS, sampler=sampler(dataset(), rank))
        batches = itertools.chain(itertools.islice(before, earlier + rank), loader)
    rehearsal = Rehearsal(20, 4, batch_size=ROWS, verbose=False)
    try:
        for batch in itertools.islice(batches, 9):
            rehearsal.extend(batch)
    except ValueError as error:
        return str(error)
    rehearsal.close()
    return None


def test_samplers_that_do_not_belong_together_are_named_on_every_rank():
    cases = {
        "alike": ({}, 0),
        "seed": ({"seed": 5}, 0),
        "samples": ({"n": 180}, 0),
        "rank": ({"rank": 0}, 0),
        "on purpose": ({"rank": 0, "check": False}, 0),
        "data of their own": ({"seed": 5, "rank": 0}, 1000),
    }
    told = run_cases(say, 2, {(name, tasks): (*case, tasks) for name, case in cases.items() for tasks in (0, 2)})
    for case, message in {
        "seed": "OwnerSamplers of ranks 0 and 1 have seed 4 and 5",
        "samples": "OwnerSamplers of ranks 0 and 1 have num_samples 200 and 180",
        "rank": "OwnerSamplers of ranks 0 and 1 both give the samples of rank 0 of 2",
    }.items():
        for tasks in (0, 2):
            first, second = told.pop((case, tasks))
            assert first == second
            assert message in (first or "nothing"), (case, tasks)
    assert all(messages == [None, None] for messages in told.values()), told


def test_ids_of_no_sampler_are_nobodys_business():
    list(sampler(dataset(), 0))
    ids = torch.randperm(1000)[:50].reshape(5, 10) + 5000
    assert steps([{"image": row[:, None].float(), "label": row % 3, "sample_id": row} for row in ids]) is None
