"""Loops that give feedback: the loss of a sample is a function of its id and of the step."""

from __future__ import annotations

import numpy as np
import torch
from samples import minibatch_of

from drb import Rehearsal

CLASSES = 5


def losses(sample_id, step):
    """float32 [r], exact in binary, so that sums are the same in every order."""
    return ((sample_id * 7 + step) % 16).float() / 8


def is_right(sample_id, step):
    """Class 3 is nearly always wrong."""
    return (sample_id % CLASSES != 3) | ((sample_id + step) % 8 == 0)


def ids_of_step(rank, world_size, step, rows=8):
    return (np.arange(step * rows, (step + 1) * rows)) * world_size + rank


def go_on(rehearsal, steps, *, rank=0, world_size=1, rows=8, gives=lambda step: True):
    """Take these steps; the ids of the exemplars of each."""
    drawn = []
    for step in steps:
        batch = rehearsal.extend(minibatch_of(ids_of_step(rank, world_size, step, rows), CLASSES))
        ids = batch["sample_id"][batch["rehearsed"]].clone()
        drawn.append(ids.tolist())
        if len(ids) and gives(step):
            rehearsal.feedback(loss=losses(ids, step), correct=is_right(ids, step))
    return drawn


def rehearsal_of(**options):
    settings = {"capacity": 40, "exemplars": 6, "proportions": "mix_cd", "seed": 3, "verbose": False, "batch_size": 16}
    return Rehearsal(**{**settings, **options})


def same(state, other):
    """Whether two states are alike, bit for bit."""
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(same(state[name], other[name]) for name in state)
    if isinstance(state, (np.ndarray, torch.Tensor)):
        return np.array_equal(np.asarray(state), np.asarray(other))
    return state == other
