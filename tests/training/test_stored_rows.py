"""Epochs over what is stored: as many exemplars as there are, also if the number of ranks changes half-way."""

from __future__ import annotations

import torch

from drb.data.epochs import Segment
from drb.training.stored_rows import StoredRows


def rows_of(num_stored, exemplars, world_size):
    return StoredRows(num_stored, exemplars, world_size=world_size, example={"image": torch.ones(5, 3)})


def test_an_epoch_draws_as_many_exemplars_as_are_stored():
    for stored, batches in ((0, 0), (1, 1), (12, 1), (13, 2)):
        loader = rows_of(stored, 4, 3)
        assert loader.num_batches == loader.deal(0).num_batches == batches
        minibatches = list(loader.epoch(0))
        assert [minibatch["image"].shape for minibatch in minibatches] == [(0, 3)] * batches
        assert loader.deal(0).rows().tolist() == [0] * batches


def test_what_is_left_of_an_epoch_is_dealt_to_the_ranks_there_are():
    loader = rows_of(100, 5, 4)
    deal = loader.deal(0, [Segment(2, 8, 4)])  # 40 exemplars on two ranks
    assert deal.num_batches == 3
    assert deal.share_seen == 0.4
    assert len(list(loader.epoch(0, 2, [Segment(2, 8, 4)]))) == 1
    assert loader.deal(0, [Segment(2, 8, 40)]).num_batches == 0
