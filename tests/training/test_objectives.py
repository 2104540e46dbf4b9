"""An objective that is not classification: two output tensors, an error as the score, the same strategies."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from ranks import run_ranks
from torch import nn
from training.parts import small_dataset, small_trainer, weights

from drb import Field, Rehearsal
from drb.distributed.world import World
from drb.training.evaluation.metrics import ScoreMatrix
from drb.training.objectives import Metric, Objective
from drb.training.strategies import ExperienceReplay
from drb.training.strategies.derpp import DarkExperienceReplayPlusPlus


class AmplitudeAndPhase(Objective):
    """Reconstructs an image and its negative."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("error", higher_is_better=False, has_baseline=True),)

    def inputs(self, batch):
        return batch["image"]

    def row_losses(self, outputs, batch):
        image = batch["image"].flatten(1) / 255
        return (outputs[0] - image).square().mean(1) + (outputs[1] - (1 - image)).square().mean(1)

    def scorer(self, source, classes):
        return lambda outputs, batch: {
            "error": self.row_losses(outputs, batch).sum(),
            "count": torch.tensor(len(batch["image"])),
        }


class TwoOutputs(nn.Module):
    num_classes = 1

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(4, 16), nn.Linear(4, 16)])

    def forward(self, images):
        features = self.body(images)
        return tuple(head(features) for head in self.heads)

    def grow(self, num_outputs, seed):
        return False


def make_two_outputs(num_outputs, task):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task)
        return TwoOutputs()


def reconstruct(rank, world_size):
    results = {}
    for strategy in (ExperienceReplay(), DarkExperienceReplayPlusPlus()):
        late = {name: field.declared(max_outputs=32) for name, field in strategy.needs().late.items()}
        spec = {"image": Field(torch.uint8, (1, 4, 4)), "label": Field(torch.int64), **late} if late else None
        with Rehearsal(8, 4, draws=strategy.needs().draws, spec=spec, batch_size=6, verbose=False) as rehearsal:
            trainer = small_trainer(
                small_dataset(80),
                strategy,
                objective=AmplitudeAndPhase(),
                network=make_two_outputs,
                world=World(rank, world_size),
                rehearsal=rehearsal,
                batch_size=5,
                epochs=5,
            )
            trainer.run()
        results[type(strategy).__name__] = trainer.scores.summary(), weights(trainer.network)
    return results


def test_rehearsal_methods_reconstruct_with_two_output_tensors_on_two_ranks():
    left, right = run_ranks(reconstruct, 2)
    for name, (summary, state) in left.items():
        assert all((value == right[name][1][key]).all() for key, value in state.items())
        matrix, baselines = summary["error_matrix"], summary["baselines"]
        assert (summary["metric"], summary["higher_is_better"]) == ("error", False)
        assert matrix[1][1] < 0.7 * baselines[1]  # it learns
        assert math.isclose(summary["bwt"], matrix[0][0] - matrix[1][0])
        assert math.isclose(summary["fwt"], baselines[1] - matrix[0][1])


def test_an_error_that_rises_is_forgetting_and_negative_backward_transfer():
    matrix = ScoreMatrix(higher_is_better=False, bounds=None)
    for after, on, error in ((0, 0, 2.0), (1, 0, 5.0), (1, 1, 1.0), (2, 0, 3.0), (2, 1, 4.0), (2, 2, 1.0)):
        matrix.add(after, on, error)
    assert matrix.bwt() == ((2.0 - 3.0) + (1.0 - 4.0)) / 2
    assert matrix.forgetting() == ((3.0 - 2.0) + (4.0 - 1.0)) / 2
