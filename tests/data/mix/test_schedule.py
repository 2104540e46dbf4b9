"""Shares that change at known steps: as if somebody had changed them there, and on any number of ranks."""

import itertools
import json

import pytest
from data.mix.test_mix import Numbers

from drb import MixedSource
from drb.data.mix import mixture

PARTS = [("new", Numbers(40), 3, 4), ("base", Numbers(301), 1), ("weak", Numbers(9), 0)]
SCHEDULE = {5: {"new": 1, "base": 2, "weak": 1}, 9: {"new": 1, "base": 1}}


def make(schedule=SCHEDULE, parts=PARTS, batch_size=24):
    return MixedSource(parts, batch_size=batch_size, seed=3, schedule=schedule)


def steps_of(mixed, world_size, steps):
    """The samples of each step on all ranks, sorted."""
    samplers = [mixed.sampler(rank, world_size, steps=steps) for rank in range(world_size)]
    return [sorted(map(mixed.name_of, itertools.chain(*ids))) for ids in zip(*samplers, strict=True)]


def with_shares(shares):
    return [(name, dataset, shares.get(name, 0), *more) for name, dataset, _, *more in PARTS]


def test_a_schedule_is_what_changes_at_its_steps_would_be():
    whole = steps_of(make(), 1, 14)
    by_hand = make({})
    trained = steps_of(by_hand, 2, 5)
    for step, stop in ((5, 9), (9, 14)):
        state = json.loads(json.dumps(by_hand.state_dict(step)))
        by_hand = make({}, with_shares(SCHEDULE[step]))
        by_hand.load_state_dict(state, changes="allow")
        trained += steps_of(by_hand, 4, stop - step)
    assert trained == whole
    assert {name for step in whole[:5] for name, _ in step} == {"new", "base"}
    assert sum(name == "weak" for step in whole[5:9] for name, _ in step) == 24
    assert all(name != "weak" for step in whole[9:] for name, _ in step)
    assert max(each.worst for each in mixture(make().mix, 14)) < 1


def test_a_resumed_mix_keeps_its_schedule_and_what_comes_may_be_changed():
    whole = steps_of(make(), 1, 14)
    for at in (3, 5, 7, 12):
        again = make()
        again.load_state_dict(make().state_dict(at))
        assert steps_of(again, 3, 14 - at) == whole[at:]
    other = make({**SCHEDULE, 9: {"base": 1}})
    with pytest.raises(
        ValueError, match=r"the schedule has base 1 from step 9 on, and had new 1, base 1 from step 9 on; go on with"
    ):
        other.load_state_dict(make().state_dict(7))
    other.load_state_dict(make().state_dict(7), changes="allow")
    rest = steps_of(other, 1, 7)
    assert rest[:2] == whole[7:9]
    assert {name for step in rest[2:] for name, _ in step} == {"base"}
    other.load_state_dict(make().state_dict(10), changes="allow")  # the change of step 9 is over: it is made now
    assert {name for name, _ in steps_of(other, 1, 1)[0]} == {"base"}


def test_scheduled_steps_are_those_of_the_batch_size_that_there_is():
    larger = make(batch_size=48)
    larger.load_state_dict(make().state_dict(4), changes="allow")
    rest = steps_of(larger, 2, 8)
    assert [len(step) for step in rest] == [48] * 8
    assert [any(name == "weak" for name, _ in step) for step in rest] == [False, True, True, True, True] + [False] * 3


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({0: {"new": 1}}, "a step of the schedule of shares must be at least 1, got 0"),
        ({"5": {"new": 1}}, "a step of the schedule of shares must be an integer, got '5'"),
        ({5: {"nwe": 1}}, "the mix has no source 'nwe'; its sources: new, base, weak"),
        ({5: {"new": 0}}, "at least one source needs a share above 0"),
        ({5: {"new": 1}, 20: {"base": 1}}, "had their last visit after 8 steps, before the change at step 20"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        make(schedule)
