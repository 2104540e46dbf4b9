"""A mix in a training loop of torch's kind, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from data.mix.test_mix import Numbers
from torch.utils.data import DataLoader, TensorDataset

from drb import MixedSource
from drb.data.mix import steps_of_sample
from drb.data.mix.spread import first_gap, has_no_gaps


def images(count, offset):
    return TensorDataset(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1) + offset, torch.arange(count) % 3)


def test_a_data_loader_gives_what_the_ids_say_and_goes_on_from_a_state():
    parts = [("new", images(20, 0), 1), ("base", images(50, 100), 3)]
    mixed = MixedSource(parts, batch_size=8, seed=0)
    assert len(mixed) == 70
    loader = DataLoader(mixed, batch_sampler=mixed.sampler(0, 1, steps=9), num_workers=2)
    whole = [batch["sample_id"].tolist() for batch in loader]
    assert len(loader) == len(whole) == 9
    again = MixedSource(parts, batch_size=8, seed=0)
    again.load_state_dict(mixed.state_dict(4))
    rest = list(DataLoader(again, batch_sampler=again.sampler(0, 1, steps=5)))
    assert [batch["sample_id"].tolist() for batch in rest] == whole[4:]
    for batch in rest:
        for image, label, sample_id in zip(batch["image"], batch["label"], batch["sample_id"], strict=True):
            name, position = again.name_of(int(sample_id))
            assert (image.item(), label.item()) == (position + 100 * (name == "base"), position % 3)


def refuse(change, state=None, **given):
    parts = [["new", Numbers(10), 1, None, "abc"], ["base", Numbers(20), 3, None]]
    mixed = MixedSource([tuple(part) for part in parts], batch_size=8)
    change(parts)
    other = MixedSource([tuple(part) for part in parts], **{"batch_size": 8, **given})
    other.load_state_dict(mixed.state_dict(4) if state is None else state)


def alter(part, field, value):
    def change(parts):
        parts[part][field] = value

    return change


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        (
            lambda parts: parts.append(("weak", Numbers(3), 1)),
            {},
            "source 'weak' is new; the shares are new 1, base 3, weak 1",
        ),
        (alter(1, 1, Numbers(21)), {}, "source 'base' has 21 samples, and had 20; go on with the same"),
        (alter(0, 4, "abd"), {}, "source 'new' has other data"),
        (alter(0, 3, 2), {}, "source 'new' has max_visits 2, and had None"),
        (alter(1, 2, 2), {}, "the shares are new 1, base 2, and were new 1, base 3"),
        (lambda parts: None, {"batch_size": 9}, "the batch size is 9, and was 8"),
        (lambda parts: None, {"state": {"format": "other"}}, "must have the format 'drb-mix 2'.*got 'other'"),
        (
            lambda parts: None,
            {"state": {"format": "drb-mix 2", "owners": 48, "seed": 0}},
            "state of the mix is damaged",
        ),
        (lambda parts: None, {"state": []}, "got 'list'"),
        (alter(1, 0, "new"), {}, "two sources of a mix are called 'new'"),
        (alter(1, 1, Numbers(0)), {}, "source 'base' needs at least one sample, got 0"),
        (alter(1, 1, iter([1])), {}, r"'base' is an iterator \(list_iterator\), which gives its samples only once"),
        (alter(1, 1, 3), {}, "'base' must be a dataset with a length and indices, or an iterable, got int"),
        (alter(1, 3, 0), {}, "max_visits of source 'base' must be at least 1, got 0"),
        (lambda parts: None, {"batch_size": 0}, "batch size of a mix must be at least 1, got 0"),
        (lambda parts: None, {"batch_size": 2.5}, r"batch size of a mix must be an integer, got 2\.5"),
        (lambda parts: None, {"batch_size": True}, "batch size of a mix must be an integer, got True"),
        (alter(1, 3, 1.5), {}, r"max_visits of source 'base' must be an integer, got 1\.5"),
        (lambda parts: None, {"seed": 5}, "the seed is 5, and the mix was begun with 0; give seed=0"),
    ],
)
def test_what_makes_no_mix_or_another_one_is_refused_in_one_line(change, given, message):
    with pytest.raises(ValueError, match=message) as refused:
        refuse(change, **given)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_allowed_is_refused_and_changes_nothing():
    parts = [("new", Numbers(10), 1, None, "abc"), ("base", Numbers(20), 3)]
    state = MixedSource(parts, batch_size=8).state_dict(4)
    for part, message in (
        (("new", Numbers(9), 1, None, "abc"), "has 9 samples and had 10: samples that are gone leave holes"),
        (("new", Numbers(10), 1, None, "x"), "as many samples as before, and they are others; give it another name"),
    ):
        mixed = MixedSource([part, parts[1]], batch_size=8)
        with pytest.raises(ValueError, match=message):
            mixed.load_state_dict(state, changes="allow")
        assert mixed.step == 0
    with pytest.raises(ValueError, match="changes must be refuse or allow"):
        mixed.load_state_dict(state, changes="yes")
    with pytest.raises(IndexError, match="25 is no sample id of this mix"):
        MixedSource(parts, batch_size=8)[25]


def test_samplers_refuse_ranks_that_they_cannot_serve():
    mixed = MixedSource([("new", Numbers(10), 1), ("base", Numbers(20), 3)], batch_size=8)
    with pytest.raises(ValueError, match="on 5 ranks samples of a mix change their rank"):
        mixed.sampler(0, 5, rehearsed=True)
    with pytest.raises(ValueError, match=r"rank must be in \[0, world_size\)"):
        mixed.sampler(2, 2)
    with pytest.raises(ValueError, match=r"of 12 ranks, these would have no sample in step 0: .*11; use a larger"):
        mixed.sampler(11, 12, steps=9)
    with pytest.raises(TypeError, match="this mix never ends"):
        len(mixed.sampler(0, 1))


def test_numbers_of_numpy_are_taken_and_the_state_is_json():
    parts = [("new", Numbers(10), np.int64(3), np.int64(4)), ("base", Numbers(20), np.int64(1))]
    mixed = MixedSource(parts, batch_size=np.int64(8), seed=np.int64(1))
    plain = MixedSource([("new", Numbers(10), 3, 4), ("base", Numbers(20), 1)], batch_size=8, seed=1)
    assert json.dumps(mixed.state_dict(np.int64(3))) == json.dumps(plain.state_dict(3))


@pytest.mark.parametrize("step", [-1, 2.5, True, None])
def test_a_number_of_steps_that_cannot_have_been_trained_is_refused(step):
    mixed = MixedSource([("new", Numbers(10), 1)], batch_size=8)
    for use in (mixed.state_dict, lambda step: mixed.load_state_dict({**mixed.state_dict(0), "step": step})):
        with pytest.raises(ValueError, match="number of steps that have been trained must be"):
            use(step)


def test_steps_are_not_given_twice_unless_the_loop_says_how_many_were_trained():
    """Otherwise the audit would tell of samples that were never trained."""
    mixed = MixedSource([("new", Numbers(20), 2), ("base", Numbers(50), 1)], batch_size=8)
    loader = DataLoader(mixed, batch_sampler=mixed.sampler(0, 1, steps=4))
    trained = [mixed.name_of(each) for batch in loader for each in batch["sample_id"]]
    for again in (loader, mixed.sampler(0, 1)):
        with pytest.raises(ValueError, match=r"this mix from 0 on already; .*load_state_dict\(mixed.state_dict"):
            next(iter(again))
    for epoch in range(1, 4):
        mixed.load_state_dict(mixed.state_dict(4 * epoch))
        trained += [mixed.name_of(each) for batch in loader for each in batch["sample_id"]]
    told = {sample: steps_of_sample(mixed.mix, "base", sample, 16) for sample in range(50)}
    assert {sample: len(steps) for sample, steps in told.items()} == {s: trained.count(("base", s)) for s in range(50)}


@pytest.mark.parametrize("world_size", [3, 5, 48])
def test_a_step_without_samples_of_a_rank_is_known_before_training(world_size):
    """As the formula says it for every rank, and on all ranks alike."""
    parts = [("new", Numbers(70), 3), ("base", Numbers(50), 1)]
    mixed = MixedSource(parts, batch_size=world_size + 1)
    rows = [mixed.mix.rows(0, 40, rank, world_size).steps for rank in range(world_size)]
    counts = np.array([np.bincount(steps, minlength=40) for steps in rows])
    gap = first_gap(mixed.mix, 0, 40, world_size)
    if counts.all():
        assert gap is None
        return
    step = int(np.argmax((counts == 0).any(axis=0)))
    assert (gap.step, gap.ranks) == (step, np.flatnonzero(counts[:, step] == 0).tolist())
    for rank in range(world_size):
        with pytest.raises(ValueError, match=f"would have no sample in step {step}: {gap.ranks[0]}"):
            mixed.sampler(rank, world_size)
    assert len(list(mixed.sampler(0, world_size, steps=step))) == step


def test_a_step_that_is_too_small_later_on_ends_all_ranks_at_it(monkeypatch):
    monkeypatch.setattr("drb.data.mix.spread._SAMPLES_AT_ONCE", 8)  # look ahead for a step only
    mixed = MixedSource([("new", Numbers(70), 3), ("base", Numbers(50), 1)], batch_size=64)
    gap = first_gap(mixed.mix, 0, 40, 48)
    assert gap.step > 0
    for rank in (0, 47):
        given, sampler = [], mixed.sampler(rank, 48)
        with pytest.raises(ValueError, match=f"would have no sample in step {gap.step}"):
            given.extend(sampler)
        assert len(given) == gap.step


def test_steps_that_are_large_enough_are_not_counted():
    """And the rule by which they need not be is not too bold."""
    for world_size, batch in ((3, 9), (4, 12), (6, 18)):
        mixed = MixedSource([("new", Numbers(37), 3), ("base", Numbers(30), 1)], batch_size=batch, seed=batch)
        assert has_no_gaps(mixed.mix, 0, world_size)
        rows = [mixed.mix.rows(0, 500, rank, world_size).steps for rank in range(world_size)]
        assert all(np.bincount(steps, minlength=500).all() for steps in rows)


def test_workers_that_persist_have_the_samples_of_every_pass():
    """starVLA #470: workers that kept their first copy gave the same samples in every epoch."""
    mixed = MixedSource([("new", images(20, 0), 1), ("base", images(50, 100), 1)], batch_size=10, seed=0)
    loader = DataLoader(mixed, batch_sampler=mixed.sampler(0, 1, steps=4), num_workers=2, persistent_workers=True)
    trained = []
    for epoch in range(3):
        mixed.load_state_dict(mixed.state_dict(4 * epoch))
        trained += [(each, int(image)) for batch in loader for each, image in zip(*named(mixed, batch), strict=True)]
    assert all(image == position + 100 * (name == "base") for (name, position), image in trained)
    came = [sample for sample, _ in trained]
    assert [came.count(("new", sample)) for sample in range(20)] == [3] * 20
    assert max(came.count(("base", sample)) for sample in range(50)) == 2
    other = MixedSource([("base", images(50, 100), 1), ("new", images(20, 0), 1)], batch_size=10, seed=0)
    with pytest.raises(ValueError, match="numbers the sources in another order .* load the state into a new one"):
        mixed.load_state_dict(other.state_dict(4))


def named(mixed, batch):
    return [mixed.name_of(each) for each in batch["sample_id"]], batch["image"].flatten()


def test_more_steps_than_there_are_cannot_have_been_trained():
    """mosaicml/streaming #869: a state from behind the end of an epoch could not be gone on with."""
    mixed = MixedSource([("new", Numbers(20), 1, 2)], batch_size=8)
    assert len(list(mixed.sampler(0, 1))) == 5
    mixed.load_state_dict(mixed.state_dict(5))
    assert list(mixed.sampler(0, 1)) == []
    with pytest.raises(ValueError, match="the mix has 5 steps in all, and 6 cannot have been trained"):
        mixed.state_dict(6)


def test_sizes_as_shares_have_every_sample_once():
    """Megatron-LM #547: 10 and 20 samples, evenly over all 30."""
    mixed = MixedSource([("a", Numbers(10), 10), ("b", Numbers(20), 20)], batch_size=6)
    (trained,) = [[mixed.name_of(each) for ids in mixed.sampler(0, 1, steps=5) for each in ids]]
    assert sorted(trained) == [("a", i) for i in range(10)] + [("b", i) for i in range(20)]


def test_a_sampler_that_was_made_before_the_process_group_is_of_its_ranks(monkeypatch):
    """Trainers such as Lightning's open the group after their user has made the loaders."""
    mixed = MixedSource([("new", Numbers(40), 1), ("base", Numbers(60), 1)], batch_size=8)
    sampler = mixed.sampler(steps=3)
    expected = list(
        MixedSource([("new", Numbers(40), 1), ("base", Numbers(60), 1)], batch_size=8).sampler(1, 2, steps=3)
    )
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert list(sampler) == expected
    assert (sampler.rank, sampler.world_size) == (1, 2)
