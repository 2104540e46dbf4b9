"""MIR's choice among candidates, against networks that are trained and evaluated one sample at a time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import run_ranks
from torch import Tensor
from training.method.runs import RATE, Watched, case
from training.parts import small_dataset, small_trainer

from drb import Rehearsal
from drb.training.method.batch import Batch
from drb.training.strategies import STRATEGIES
from drb.training.strategies.mir import MaximallyInterferedRetrieval


class BruteForce(MaximallyInterferedRetrieval):
    """Compares every choice."""

    def __post_init__(self) -> None:
        self._agrees: list[bool] = []

    def select(self, batch: Batch) -> Tensor:
        chosen = super().select(batch)
        inputs, labels = batch.inputs(), batch["label"]
        before = copy.deepcopy(batch.step.network)
        after = copy.deepcopy(before)
        new = gathered(inputs[batch.new]), gathered(labels[batch.new])
        F.cross_entropy(after(new[0]), new[1]).backward()
        with torch.no_grad():
            for parameter in after.parameters():
                parameter -= RATE * parameter.grad
        rows = range(batch.exemplars.start, batch.exemplars.stop)
        losses = [
            [F.cross_entropy(n(inputs[i : i + 1]), labels[i : i + 1]).item() for i in rows] for n in (after, before)
        ]
        best = np.argsort(-np.subtract(*losses))[: batch.num_selected]
        self._agrees.append(set(best.tolist()) == set(chosen.tolist()) and len(rows) > batch.num_selected)
        return chosen


def gathered(rows: Tensor) -> Tensor:
    """Those of all ranks."""
    if not dist.is_initialized():
        return rows
    of_ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_ranks, rows.tolist())
    return torch.cat([torch.tensor(part, dtype=rows.dtype).view(-1, *rows.shape[1:]) for part in of_ranks])


def agreements(rank, world_size):
    strategy = BruteForce(candidates=8)
    trainer = Watched(rank, world_size, lambda: (strategy, []))
    trainer.run()
    trainer.rehearsal.close()
    return strategy._agrees


@pytest.mark.parametrize("world_size", [1, 2])
def test_mir_chooses_the_exemplars_that_a_step_on_the_new_rows_of_all_ranks_hurts_most(world_size):
    for agrees in run_ranks(agreements, world_size):
        assert len(agrees) > 20 / world_size
        assert np.mean(agrees) > 0.9  # the first draws have too few exemplars to choose; nearly equal rises


def mir():
    return STRATEGIES.build("mir", {"candidates": 8}), []


def test_mir_trains_on_as_many_exemplars_as_it_chose_and_pays_for_the_candidates():
    for result in (result["mir"] for result in run_ranks(case, 2, {"mir": (mir, {})})):
        assert result["digests_again"] == result["digests"][-len(result["digests_again"]) :]
        batches = result["batches"]
        assert {len(batch["fields"]["label"]) - batch["new"] for batch in batches} <= {0, 1, 2, 3}
        assert len(batches[-1]["fields"]["label"]) - batches[-1]["new"] == 3
        trained, forward = result["cost"]
        assert forward > trained / 2


@pytest.mark.parametrize(("num_exemplars", "message"), [(None, "a number"), (9, "9 exemplars of 8 candidates")])
def test_a_choice_needs_more_candidates_than_exemplars(num_exemplars, message):
    with (
        Rehearsal(10, 8, verbose=False) as rehearsal,
        pytest.raises(ValueError, match=message),
    ):
        small_trainer(small_dataset(40), mir()[0], rehearsal=rehearsal, num_exemplars=num_exemplars)
