"""Minibatches from mapped and undecoded files: those from memory, bit for bit, and nothing copied or left behind."""

import threading

import numpy as np
import pytest
import torch
from images import write_image_folder
from ranks import run_ranks

from drb.data.datasets import CacheSettings, Concat, MappedSource, TensorSource, load_dataset
from drb.data.load_on_all_ranks import load_on_all_ranks
from drb.data.loader import TaskLoader
from drb.data.scenarios import build_scenario
from drb.distributed.world import World


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "images", per_class=12, num_classes=3)


def folder(root, mode, **options):
    cache = CacheSettings(mode, root.parent / "cache")
    return load_dataset("image_folder", root, cache=cache, **{"image_size": 10, "workers": 2, **options})


def in_memory(dataset):
    return TensorSource(dataset.train.gather(np.arange(len(dataset.train))))


def minibatches(loader, epoch=0, start=0):
    return [{name: column.clone() for name, column in m.items()} for m in loader.epoch(epoch, start)]


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("mode", ["always", "never"])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_epoch_is_that_from_memory_wherever_it_starts(root, mode, workers):
    dataset = folder(root, mode, workers=workers)
    options = {"rank": 1, "world_size": 2, "seed": 4}
    loader, expected = (TaskLoader(source, 4, **options) for source in (dataset.train, in_memory(dataset)))
    whole = minibatches(expected, 3)
    for start in (0, 2, len(whole)):
        assert_equal(minibatches(loader, 3, start), whole[start:])


@pytest.mark.parametrize("image_size", [4, 300])  # many minibatches per block, and one
def test_blocks_do_not_show(root, image_size):
    dataset = folder(root, "always", image_size=image_size)
    loaders = [TaskLoader(source, 4, seed=4) for source in (dataset.train, in_memory(dataset))]
    assert_equal(*(minibatches(loader, 1, 2) for loader in loaders))


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        ("class_incremental", {"num_tasks": 3, "class_order": "shuffled"}),
        ("task_incremental", {"num_tasks": 3}),
        ("domain_incremental", {"num_tasks": 2}),
        ("instance_incremental", {"num_tasks": 2}),
    ],
)
def test_every_scenario_gives_the_same_from_a_cache(root, scenario, options):
    mapped, decoded = folder(root, "always"), folder(root, "never")
    assert isinstance(mapped.train, MappedSource)
    streams = [list(build_scenario(scenario, dataset, seed=1, **options)) for dataset in (mapped, decoded)]
    for one, other in zip(*streams, strict=True):
        assert_equal(*(minibatches(TaskLoader(task.train, 3, seed=2), 1) for task in (one, other)))
    past = [Concat([task.train for task in stream]) for stream in streams]
    assert_equal(*(minibatches(TaskLoader(source, 5, seed=2)) for source in past))


def test_a_rank_copies_nothing_of_a_mapped_set(root):
    base = folder(root, "always").train
    [first, *_] = build_scenario("class_incremental", folder(root, "always"), seed=1, num_tasks=3)
    for source in (base, first.train):
        shard = TaskLoader(source, 4, rank=1, world_size=2)._shard
        while not isinstance(shard, MappedSource):
            shard = shard.source
        assert isinstance(shard._images.base, np.memmap)


def test_a_file_that_vanishes_in_the_middle_is_named(root):
    loader = TaskLoader(folder(root, "never").train, 4)
    stream = loader.epoch(0)
    next(stream)
    gone = root / "train" / "class1" / "5.png"
    gone.unlink()
    with pytest.raises(ValueError, match=rf"{gone} cannot be decoded \(.*No such file"):
        for _ in range(2):  # the first epoch may have been ahead of us
            list(stream)
            stream = loader.epoch(1)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("drb-")]


def load_with_error_on_rank_1(rank, world_size):
    def load():
        if rank == 1:
            raise ValueError("the image file x.png cannot be decoded")
        return "dataset"

    try:
        load_on_all_ranks(load, World(rank=rank, world_size=world_size), 30.0)
    except ValueError as error:
        return str(error)
    return load_on_all_ranks(lambda: "never", World(rank=rank, world_size=world_size), 30.0)


def test_data_that_one_rank_cannot_read_is_named_by_all():
    assert run_ranks(load_with_error_on_rank_1, 3, timeout=60) == ["the image file x.png cannot be decoded"] * 3


def load_other_data_on_rank_1(rank, world_size):
    def load():
        return load_dataset("synthetic", image_shape=[1, 2, 2], num_train=20 + 4 * (rank == 1), num_test=8)

    with pytest.raises(ValueError, match="the data of rank 1 is not that of rank 0") as raised:
        load_on_all_ranks(load, World(rank=rank, world_size=world_size), 30.0)
    return str(raised.value)


def test_ranks_whose_data_differs_are_told_by_part():
    said = run_ranks(load_other_data_on_rank_1, 2, timeout=60)
    assert said[0] == said[1]
    assert "train has 24 samples and rank 0 has 20; test has 8" in said[0]
