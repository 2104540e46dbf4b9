"""A mix over its whole life: a hundred kills, on other numbers of ranks, with changes in between."""

import itertools
import json
import random
from fractions import Fraction

import numpy as np
import pytest

from drb.data.mix import MixedSource, Part, mix_from, mixture, samples_of_step, steps_of_sample
from drb.data.mix.following import Plan, Wanted, begin
from drb.data.mix.shares import integer_shares


class Numbers:
    """A dataset of so many samples."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.zeros(1), "label": index % 3}


class Life:
    """What happens to a run: parts that change, and what was trained in each step that counts."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.parts = [Part("new", Numbers(37), 3), Part("base", Numbers(301), 2)]
        self.batch_size = 24
        self.trained = []  # by step: the names and positions that all ranks had, in order
        self.changed_at = [0]  # steps
        self.shares = [{"new": 3, "base": 2}]
        self.owner = {}

    def change(self, step):
        """Something else from this step on; nothing in a third of the cases."""
        what = self.random.choice(["nothing", "shares", "add", "grow", "batch", "drop"])
        if what == "shares":
            self.parts = [part._replace(share=self.random.randint(1, 9)) for part in self.parts]
        elif what == "add" and len(self.parts) < 6:
            name = f"source {len(self.owner)} {len(self.trained)}"
            self.parts.append(Part(name, Numbers(self.random.randint(5, 200)), self.random.randint(1, 5)))
        elif what == "grow":
            which = self.random.randrange(len(self.parts))
            part = self.parts[which]
            self.parts[which] = part._replace(dataset=Numbers(len(part.dataset) + self.random.randint(1, 50)))
        elif what == "batch":
            self.batch_size = self.random.choice([24, 36, 48])
        elif what == "drop" and len(self.parts) > 2:
            self.parts.pop(self.random.randrange(len(self.parts)))
        shares, is_again = {part.name: part.share for part in self.parts}, self.changed_at[-1] == step
        if is_again:
            self.changed_at.pop()
            self.shares.pop()
        if is_again or integer_shares(shares) != integer_shares(self.shares[-1]):
            self.changed_at.append(step)
            self.shares.append(shares)

    def train(self, state, world_size, steps):
        """So many steps on every rank from a state on; the state before each of them, and behind."""
        mixed = MixedSource(self.parts, batch_size=self.batch_size, seed=5)
        if state is not None:
            mixed.load_state_dict(json.loads(json.dumps(state)), changes="allow")
        del self.trained[mixed.step :]
        samplers = [mixed.sampler(rank, world_size, steps=steps) for rank in range(world_size)]
        assert [len(sampler) for sampler in samplers] == [steps] * world_size
        for minibatches in zip(*samplers, strict=True):
            for rank, ids in enumerate(minibatches):
                assert abs(len(ids) - self.batch_size / world_size) <= 2 * len(self.parts)
                assert all(self.owner.setdefault((world_size, each), rank) == rank for each in ids)
            self.trained.append(sorted(mixed.name_of(each) for each in itertools.chain(*minibatches)))
        return mixed


def test_a_hundred_kills_lose_nothing_and_repeat_nothing_that_was_not_due():
    kills = 0
    for seed in range(4):
        life, state = Life(seed), None
        for _ in range(25):
            mixed = life.train(state, life.random.choice([1, 2, 3, 4]), life.random.randint(1, 30))
            begun = len(life.trained) if state is None else state["step"]
            saved_at = life.random.randint(begun if state else 0, len(life.trained))
            state = mixed.state_dict(saved_at)
            life.change(saved_at)
            kills += 1
        last = life.train(state, 4, 20)
        audit(life, last)
        assert len(json.dumps(last.state_dict(0))) < 200 * len(last.mix.timeline.segments) + 2000
    assert kills == 100


def audit(life, mixed):
    """The formula says what was trained; sources are gone through without gaps; shares hold in every prefix."""
    mix = mix_from(mixed.state_dict(0))
    steps = len(life.trained)
    for step, trained in enumerate(life.trained):
        assert sorted(samples_of_step(mix, step)) == trained
    in_order = [sample for step in range(steps) for sample in samples_of_step(mix, step)]
    for source, part in enumerate(mix.parts):
        served = np.array([sample for name, sample in in_order if name == part.name], int)
        for first, last in epochs_of(part.order.sizes, len(served)):
            count = [size.count for size in part.order.sizes if size.first <= first][-1]
            once = np.bincount(served[first:last], minlength=count)
            assert len(once) == count
            assert once.max() == 1
            assert last - first == count or last == len(served)  # nothing was left out
        assert mix.served(mix.start_of(steps))[source] == len(served)
        for sample in (0, part.order.sizes[0].count - 1):
            had = [step for step, trained in enumerate(life.trained) for each in trained if each == (part.name, sample)]
            assert steps_of_sample(mix, part.name, sample, steps).tolist() == had
    worst = {name: Fraction(0) for name in mix.names}
    bounds = [*life.changed_at, steps]
    for (start, stop), shares in zip(itertools.pairwise(bounds), life.shares, strict=True):
        total = sum(shares.values())
        names = np.array([name for step in range(start, stop) for name, _ in samples_of_step(mix, step)])
        due = np.arange(1, len(names) + 1)
        for name, share in shares.items():
            errors = abs(due * share - np.cumsum(names == name) * total)
            worst[name] = max(worst[name], Fraction(int(errors.max(initial=0)), total))
    assert max(worst.values()) < 1
    for found in mixture(mix, steps):
        assert found.worst == pytest.approx(float(worst[found.name]), abs=1e-9)


def epochs_of(sizes, stop):
    """Where each epoch of a source begins and ends, of the numbers below `stop`."""
    ends = [*(size.first for size in sizes[1:]), stop]
    for size, end in zip(sizes, ends, strict=True):
        for first in range(size.first, min(end, stop), size.count):
            yield first, min(first + size.count, stop)


def test_the_order_is_the_same_on_any_number_of_ranks():
    parts = [Part("new", Numbers(100), 5), Part("base", Numbers(1000), 4), Part("weak", Numbers(20), 1)]
    steps = {}
    for world_size in (1, 2, 4, 5, 16):
        mixed = MixedSource(parts, batch_size=160, seed=1)
        samplers = [mixed.sampler(rank, world_size, steps=30) for rank in range(world_size)]
        steps[world_size] = [sorted(itertools.chain(*minibatches)) for minibatches in zip(*samplers, strict=True)]
    assert all(each == steps[1] for each in steps.values())


def test_all_of_the_new_and_other_ones_of_the_base_in_every_epoch():
    mixed = MixedSource([Part("new", Numbers(30), 30), Part("base", Numbers(100), 20)], batch_size=50, seed=2)
    epochs = [[mixed.name_of(each) for each in ids] for ids in mixed.sampler(0, 1, steps=5)]
    assert all(sorted(s for name, s in epoch if name == "new") == list(range(30)) for epoch in epochs)
    assert sorted(s for epoch in epochs for name, s in epoch if name == "base") == list(range(100))


def test_a_source_ends_after_its_last_visit_and_the_mix_after_all():
    parts = [Part("new", Numbers(30), 3, 4), Part("base", Numbers(50), 1, 2), Part("weak", Numbers(7), 2, 1)]
    mixed = MixedSource(parts, batch_size=16, seed=2)
    steps = [[mixed.name_of(each) for each in ids] for ids in mixed.sampler(0, 1)]
    trained = list(itertools.chain(*steps))
    assert len(mixed.sampler(0, 1)) == len(steps) == -(-(120 + 100 + 7) // 16)
    assert {name: trained.count((name, 3)) for name in ("new", "base", "weak")} == {"new": 4, "base": 2, "weak": 1}
    assert len(trained) == 120 + 100 + 7
    assert [each.ended for each in mixed.mix.timeline.segments] == [False, True, True, True]
    assert [(each.served, each.visits) for each in mixture(mixed.mix, len(steps))] == [(120, 4), (100, 2), (7, 1)]
    assert max(each.worst for each in mixture(mixed.mix, len(steps))) < 1
    again = MixedSource([parts[0], parts[1]._replace(max_visits=3)], batch_size=16, seed=2)
    again.load_state_dict(mixed.state_dict(5), changes="allow")
    rest = [again.name_of(each) for ids in again.sampler(0, 1) for each in ids]
    trained = [*itertools.chain(*steps[:5]), *rest]
    assert {name: trained.count((name, 3)) for name in ("new", "base")} == {"new": 4, "base": 3}
    fewer = MixedSource([parts[0]._replace(max_visits=1)], batch_size=16, seed=2)
    fewer.load_state_dict(mixed.state_dict(9), changes="allow")  # the new have been visited once and a half
    assert list(fewer.sampler(0, 1)) == []


def test_scheduled_shares_wait_for_the_end_of_a_period():
    mixed = MixedSource([Part("a", Numbers(9), 2), Part("b", Numbers(9), 5)], batch_size=10, seed=0)
    mixed.mix.change(4, {"a": 1, "b": 1}, at_period_end=True)
    assert [each.start for each in mixed.mix.timeline.segments] == [0, 42]
    mixed.mix.change(7, {"b": 1})
    names = [mixed.name_of(each)[0] for ids in mixed.sampler(0, 1, steps=8) for each in ids]
    assert [names[:42].count("a"), names[42:70].count("a"), names[70:].count("a")] == [12, 14, 0]
    with pytest.raises(ValueError, match="were changed after step 2 already"):
        mixed.mix.change(2, {"a": 1})


def test_epochs_may_end_with_a_short_step():
    mix = begin(Plan([Wanted("new", 30, 30), Wanted("base", 100, 20)], 16, epoch=50), seed=0)
    sizes = np.bincount(mix.rows(0, 12).steps)
    assert sizes.tolist() == [16, 16, 16, 2] * 3
    assert mix.timeline.step_of(np.array([0, 15, 16, 47, 48, 49, 50, 99, 100])).tolist() == [0, 0, 1, 2, 3, 3, 4, 7, 8]
    mix.change(6, batch_size=25)
    assert np.bincount(mix.rows(0, 8).steps).tolist() == [16, 16, 16, 2, 16, 16, 25, 25]
