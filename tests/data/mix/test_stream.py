"""Streams without an end as sources of a mix: forward reading, going on, and what is refused."""

import itertools
import pickle

import pytest
import torch
from data.mix.test_mix import Numbers
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from drb import MixedSource
from drb.data.mix import samples_of_step, steps_of_sample


class Sensor(IterableDataset):
    """Measurement i is i. `read` counts what was read, in this process."""

    def __init__(self, end=None, first=0):
        self.end, self.first, self.read = end, first, []

    def __iter__(self):
        for number in itertools.count(self.first):
            if number == self.end:
                return
            self.read.append(number)
            yield {"image": torch.tensor([number]), "label": 0}


class Skipping(Sensor):
    def skip(self, count):
        rest = Sensor(self.end, self.first + count)
        rest.read = self.read
        return rest


def mix(stream, *more, share=1):
    return MixedSource([("live", stream, share), ("base", Numbers(50), 1), *more], batch_size=12, seed=1)


def minibatches(mixed, world_size, steps, workers=0):
    """Of each rank, as a loader gives them."""
    samplers = [mixed.sampler(rank, world_size, steps=steps, rehearsed=True) for rank in range(world_size)]
    return [list(DataLoader(mixed, batch_sampler=each, num_workers=workers, collate_fn=list)) for each in samplers]


def live_of(steps, mixed):
    """The positions in the stream of each step, on all ranks, once every sample was found to be what its id says."""
    found = []
    for parts in zip(*steps, strict=True):
        items = [item for part in parts for item in part]
        named = [(mixed.name_of(item["sample_id"]), item["image"]) for item in items]
        assert all(image.item() == position for (name, position), image in named if name == "live")
        found.append(sorted(position for (name, position), _ in named if name == "live"))
    return found


@pytest.mark.parametrize("kind", [Sensor, Skipping])
def test_a_stream_comes_once_in_its_order_and_goes_on_with_other_ranks(kind):
    first = mix(kind())
    steps = live_of(minibatches(first, 2, 5), first)
    stream = kind()
    second = mix(stream)
    second.load_state_dict(first.state_dict(3))
    rest = live_of(minibatches(second, 3, 4), second)
    assert rest[:2] == steps[3:]
    assert list(itertools.chain(*steps[:3], *rest)) == list(range(42))
    assert min(stream.read) == (18 if kind is Skipping else 0)
    third = mix(kind())
    third.load_state_dict(second.state_dict(7))
    assert live_of(minibatches(third, 1, 2, workers=2), third) == [list(range(42, 48)), list(range(48, 54))]
    assert steps_of_sample(third.mix, "live", 20, 9).tolist() == [3]
    assert [sample for name, sample in samples_of_step(third.mix, 4) if name == "live"] == list(range(24, 30))


def test_a_stream_is_read_forward_and_no_further_than_needed():
    stream = Sensor()
    mixed = mix(stream, share=3)
    list(DataLoader(mixed, batch_sampler=mixed.sampler(0, 2, steps=4), collate_fn=list))
    assert stream.read == list(range(max(stream.read) + 1))
    assert max(stream.read) < 36
    copy = pickle.loads(pickle.dumps(mixed))  # as a worker that is spawned has it
    assert copy[0]["image"].item() == 0


def test_streams_that_end_or_change_into_something_else_are_told():
    ended = mix(Sensor(end=20))
    with pytest.raises(ValueError, match="source 'live' ended before its sample 20; a stream is expected to go on"):
        minibatches(ended, 1, 5)
    rest = MixedSource([("base", Numbers(50), 1)], batch_size=12, seed=1)
    rest.load_state_dict(ended.state_dict(3), changes="allow")
    assert {name for name, _ in samples_of_step(rest.mix, 3)} == {"base"}
    other = MixedSource([("live", Numbers(50), 1), ("base", Numbers(50), 1)], batch_size=12, seed=1)
    with pytest.raises(ValueError, match="source 'live' is a dataset with a length, and was a stream"):
        other.load_state_dict(ended.state_dict(3))
    with pytest.raises(ValueError, match="source 'live' was a stream; give what it is now another name"):
        other.load_state_dict(ended.state_dict(3), changes="allow")
    with pytest.raises(ValueError, match="'live' is a stream, whose samples come once each; leave out its max_visits"):
        MixedSource([("live", Sensor(), 1, 2)], batch_size=4)
    with pytest.raises(ValueError, match=r"'live' is an iterator \(generator\), which gives its samples only once"):
        MixedSource([("live", (i for i in range(3)), 1)], batch_size=4)
    with pytest.raises(TypeError):
        len(ended)


class Sharding(Sensor):
    """Gives each worker of a loader a part of its own, as many iterable data sets do."""

    def __iter__(self):
        info = get_worker_info()
        whole = super().__iter__()
        return whole if info is None else itertools.islice(whole, info.id, None, info.num_workers)


def test_a_stream_that_shares_itself_among_workers_is_read_whole():
    mixed = mix(Sharding())
    (steps,) = minibatches(mixed, 1, 6, workers=2)
    assert list(itertools.chain(*live_of([steps], mixed))) == list(range(36))
