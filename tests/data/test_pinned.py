"""Minibatches in memory of a kind: the same values, every field in that memory, images gathered straight into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drb.data.datasets import Concat, MappedSource, TensorSource, View
from drb.data.loader import TaskLoader
from drb.data.pinned import gather_into

COUNT, SHAPE = 20, (3, 4, 5)
IMAGES = torch.arange(COUNT * 60).remainder(251).to(torch.uint8).view(COUNT, *SHAPE)
LABELS, IDS = torch.arange(COUNT) % 7, torch.arange(COUNT) + 100


def in_tensors():
    return TensorSource({"image": IMAGES, "label": LABELS, "sample_id": IDS})


def mapped():
    erased = np.zeros(COUNT, np.bool_)
    return MappedSource(IMAGES.numpy(), LABELS.numpy(), IDS.numpy(), erased, where=Path("cache"))


def relabelled(source):
    half = np.arange(0, COUNT, 2)
    return View(View(source, half), np.arange(3, 10), label_map=np.arange(7)[::-1].copy(), guise=1, task=4)


class Memory:
    """Allocates, and knows its own."""

    def __init__(self):
        self.addresses, self.bytes = set(), 0

    def __call__(self, shape, dtype):
        value = torch.full(shape, 99).to(dtype)
        self.addresses.add(value.data_ptr())
        self.bytes += value.nbytes
        return value


@pytest.mark.parametrize(
    ("source", "image_copies"),
    [
        (in_tensors(), 1),
        (mapped(), 1),
        (relabelled(in_tensors()), 1),
        (relabelled(mapped()), 1),
        (View(mapped(), np.arange(10), transform=lambda images: images.flip(3)), 2),
        (Concat([in_tensors(), relabelled(mapped())]), 1),
    ],
    ids=["tensors", "mapped", "view of tensors", "view of mapped", "transformed", "concat"],
)
def test_the_same_minibatch_lies_in_that_memory(source, image_copies):
    if isinstance(source, Concat):
        source.sources[0].columns["task"] = torch.zeros(COUNT, dtype=torch.int64)
    memory, rows = Memory(), np.array([5, 0, 6, 2])
    found, expected = gather_into(memory, source, rows), source.gather(rows)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) and found[name].dtype == value.dtype for name, value in expected.items())
    assert {value.data_ptr() for value in found.values()} <= memory.addresses
    assert memory.bytes // expected["image"].nbytes == image_copies


@pytest.mark.parametrize("source", [in_tensors(), relabelled(mapped())], ids=["tensors", "mapped"])
def test_a_loader_gives_the_same_epoch_in_that_memory(source):
    memory = Memory()
    plain, there = (list(TaskLoader(source, 3, seed=1, memory=m).epoch(0)) for m in (None, memory))
    assert [{name: value.tolist() for name, value in one.items()} for one in there] == [
        {name: value.tolist() for name, value in one.items()} for one in plain
    ]
    assert there[0]["image"].untyped_storage().data_ptr() in memory.addresses
