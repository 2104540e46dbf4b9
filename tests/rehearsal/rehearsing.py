"""Loops over a rehearsal on one rank."""

import copy

import numpy as np
import pytest
import torch
from samples import logits_of, minibatch_of

from drb import Rehearsal
from drb.buffer.record import Field

SPEC = {"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ()), "logits": Field(torch.float32, (3,), late=True)}
BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["inline", "async"])


def open_rehearsal(capacity=30, exemplars=7, **settings):
    if settings.get("admission") == "random_replacement":
        settings = {"candidates": 6, **settings}
    return Rehearsal(capacity, exemplars, **{"verbose": False, **settings})


def stream(num_minibatches=30, batch_size=8, num_samples=120):
    """Minibatches over a few epochs: ids come again."""
    rng = np.random.default_rng(3)
    return [rng.choice(num_samples, batch_size, replace=False) for _ in range(num_minibatches)]


def rehearsed_ids(batch):
    return batch["sample_id"][batch["rehearsed"]].tolist()


def extend_all(rehearsal, minibatches, *, late=False):
    """What `extend` returned, kept, although the caller's memory is overwritten after each step."""
    batches = []
    for ids in minibatches:
        minibatch = minibatch_of(ids)
        batches.append(copy.deepcopy(rehearsal.extend(minibatch)))
        minibatch["image"].zero_()
        if late:
            logits = logits_of(ids)
            rehearsal.attach(logits=logits)
            logits.zero_()
    return batches


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert torch.equal(one[name], other[name]), name
