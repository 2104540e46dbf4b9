"""A mix in a training loop of torch's kind, and what it refuses."""

import pytest
import torch
from data.mix.test_mix import Numbers
from torch.utils.data import DataLoader, TensorDataset

from drb import MixedSource


def images(count, offset):
    return TensorDataset(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1) + offset, torch.arange(count) % 3)


def test_a_data_loader_gives_what_the_ids_say_and_goes_on_from_a_state():
    parts = [("new", images(20, 0), 1), ("base", images(50, 100), 3)]
    mixed = MixedSource(parts, batch_size=8, seed=0)
    assert len(mixed) == 70
    loader = DataLoader(mixed, batch_sampler=mixed.sampler(0, 1, steps=9), num_workers=2)
    whole = [batch["sample_id"].tolist() for batch in loader]
    assert len(loader) == len(whole) == 9
    again = MixedSource(parts, batch_size=8, seed=99)
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
        (lambda parts: None, {"state": {"format": "other"}}, "must have the format 'drb-mix 1'.*got 'other'"),
        (
            lambda parts: None,
            {"state": {"format": "drb-mix 1", "owners": 48, "seed": 0}},
            "state of the mix is damaged",
        ),
        (lambda parts: None, {"state": []}, "got 'list'"),
        (alter(1, 0, "new"), {}, "two sources of a mix are called 'new'"),
        (alter(1, 1, Numbers(0)), {}, "source 'base' needs at least one sample, got 0"),
        (alter(1, 1, iter([1])), {}, "'base' must be a dataset with a length and indices, got list_iterator"),
        (alter(1, 3, 0), {}, "max_visits of source 'base' must be at least 1, got 0"),
        (lambda parts: None, {"batch_size": 0}, "batch size of a mix must be at least 1, got 0"),
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
    with pytest.raises(ValueError, match="rank 11 of 12 has no sample in step"):
        list(mixed.sampler(11, 12, steps=9))
    with pytest.raises(TypeError, match="this mix never ends"):
        len(mixed.sampler(0, 1))
