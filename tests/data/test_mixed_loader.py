"""Mixed tasks are loaded by the formula, on any number of ranks, and the ledger of the run says what was."""

from itertools import chain

import numpy as np
import pytest
from data.test_task_loader import source

from drb.data.datasets import View, tensor_dataset
from drb.data.epochs import Segment
from drb.data.mix import samples_of_step
from drb.data.mix.following import Wanted
from drb.data.mixed_loader import MixedLoader
from drb.data.scenarios import build_scenario
from drb.data.scenarios.task import TaskMix
from drb.program.mix_ledger import _go_on

MIX = TaskMix((Wanted("new", 40, 40), Wanted("base", 117, 25)), epoch=65)


def loaders(batch_size, world_size, of=source(157)):  # noqa: B008
    return [MixedLoader(of, MIX, batch_size, rank=rank, world_size=world_size, seed=2) for rank in range(world_size)]


def global_minibatches(ranks, epoch, start=0, earlier=()):
    """The ids of each minibatch on all ranks, sorted."""
    of_ranks = [[m["sample_id"].tolist() for m in loader.epoch(epoch, start, earlier)] for loader in ranks]
    return [sorted(chain(*parts)) for parts in zip(*of_ranks, strict=True)]


def test_epochs_have_all_of_the_new_and_another_part_of_the_base_on_any_number_of_ranks():
    per_world = {w: [global_minibatches(loaders(12 // w, w), epoch) for epoch in range(5)] for w in (1, 2, 3, 4)}
    assert all(each == per_world[1] for each in per_world.values())
    undecoded = View(source(157), np.arange(157), transform=lambda images: images)
    assert global_minibatches(loaders(6, 2, undecoded), 3) == per_world[1][3]
    base = set()
    for epoch in per_world[1]:
        assert [len(minibatch) for minibatch in epoch] == [12, 12, 12, 12, 12, 5]
        ids = np.array(list(chain(*epoch))) - 1000
        assert sorted(ids[ids < 40]) == list(range(40))
        if len(base) + 25 <= 117:
            assert not base & set(ids[ids >= 40].tolist())
        base |= set(ids[ids >= 40].tolist())
    assert len(base) == 117


def test_a_rank_resumes_where_it_was_and_keeps_its_samples():
    (loader,) = loaders(8, 1)
    whole = [m["sample_id"].tolist() for m in loader.epoch(2)]
    assert [m["sample_id"].tolist() for m in loader.epoch(2, 3)] == whole[3:]
    assert [m["sample_id"].tolist() for m in loader.epoch(2, len(whole))] == []
    owner = {}
    for rank, each in enumerate(loaders(4, 4)):
        for epoch in range(6):
            assert len(list(each.epoch(epoch))) == each.num_batches == each.deal(epoch).num_batches
            for minibatch in each.epoch(epoch):
                assert all(owner.setdefault(i, rank) == rank for i in minibatch["sample_id"].tolist())
    assert len(owner) == 157


def test_other_ranks_in_the_midst_of_an_epoch_and_the_ledger_of_it():
    ids, rows, earlier, mix, step = [], [], [], MIX.begin(12, 2), 0
    for world_size, batch_size, steps in ((2, 6, 2), (5, 3, 1), (1, 7, None)):
        ranks = loaders(batch_size, world_size)
        _go_on(mix, step, batch_size * world_size, 65)
        deal = ranks[0].deal(1, earlier)
        assert deal.share_seen == pytest.approx(len(list(chain(*ids))) / 65)
        found = global_minibatches(ranks, 1, 0, earlier)
        assert [len(each) for each in found] == deal.rows().tolist()
        ids += found[:steps]
        if not earlier:  # the ledger begins with epoch 0
            ids_0 = global_minibatches(ranks, 0)
            step += len(ids_0)
        step += steps or len(found)
        earlier = [*earlier, Segment(world_size, batch_size, steps or 0)]
        rows.append(deal.batch_size)
    assert len(set(chain(*ids))) == 65
    trained = [*ids_0, *ids, *global_minibatches(loaders(7, 1), 2)]
    first = {"new": 1000, "base": 1040}
    for number, each in enumerate(trained):
        assert sorted(first[name] + sample for name, sample in samples_of_step(mix, number)) == each


def test_a_ledger_that_went_back_is_cut():
    mix = MIX.begin(12, 2)
    _go_on(mix, 8, 15, 65)
    before = len(mix.timeline.paces)
    _go_on(mix, 4, 12, 65)  # resumed from an earlier checkpoint, with as many ranks as at first
    assert before == 3
    assert len(mix.timeline.paces) == 1


def test_epochs_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="repeat after"):
        MixedLoader(source(157), TaskMix((Wanted("new", 1, 1), Wanted("base", 156, 1 << 23)), 1 << 23), 4)


def images(labels):
    labels = np.array(labels)
    return np.repeat(labels, 4).reshape(-1, 1, 2, 2).astype(np.uint8), labels


def test_what_is_new_is_told_by_classes():
    dataset = tensor_dataset(images([0, 1, 2, 0, 1, 2, 2]), images([0, 1, 2]))
    (task,) = build_scenario("base_plus_new", dataset, seed=0, new_classes=[2])
    assert task.mix == TaskMix((Wanted("new", 3, 3), Wanted("base", 4, 3)), epoch=6)
    assert task.train.labels.tolist() == [2, 2, 2, 0, 1, 0, 1]
    with pytest.warns(UserWarning, match="base_per_epoch=9, and the base has 4: all in every epoch"):
        assert build_task(dataset, base_per_epoch=9).mix.sources[1].share == 4
    for options, message in (
        ({"new_classes": [7]}, "0 of 7 are new"),
        ({"new_classes": [0, 1, 2]}, "7 of 7 are new"),
        ({}, "must know what is new"),
    ):
        with pytest.raises(ValueError, match=message):
            build_scenario("base_plus_new", dataset, seed=0, **options)


def build_task(dataset, **options):
    (task,) = build_scenario("base_plus_new", dataset, seed=0, new_classes=[2], **options)
    return task
