"""What the trainer tells the rehearsal of its exemplars: their own losses, whichever of them were trained on."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor
from torch.nn.functional import cross_entropy
from training.parts import small_dataset, small_trainer

from drb import Rehearsal
from drb.training.objectives import OBJECTIVES
from drb.training.strategies import ExperienceReplay
from drb.training.strategies.agem import AveragedGradientEpisodicMemory
from drb.training.strategies.mir import MaximallyInterferedRetrieval

Told = dict[int, tuple[float, bool]]


def noting(strategy: type[ExperienceReplay], trained_on: list[Told], **options: Any) -> ExperienceReplay:
    """The strategy, which notes the loss of each exemplar that it trains on, and whether it is right, by sample id."""

    class Noting(strategy):  # type: ignore[misc, valid-type]
        def loss(self, batch: Any) -> Tensor:
            outputs, labels = batch.outputs().detach()[batch.exemplars], batch.labels[batch.exemplars]
            loss, right = cross_entropy(outputs, labels, reduction="none"), outputs.argmax(1) == labels
            ids = batch["sample_id"][batch.exemplars].tolist()
            if ids:
                trained_on.append(dict(zip(ids, zip(loss.tolist(), right.tolist(), strict=True), strict=True)))
            return super().loss(batch)

    return Noting(**options)


class Listening(Rehearsal):
    """Notes what it is told, by sample id."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, verbose=False, **options)
        self.told: list[Told] = []

    def extend(self, minibatch: Any) -> Any:
        batch = super().extend(minibatch)
        self.ids = batch["sample_id"][batch["rehearsed"]].clone()
        return batch

    def feedback(self, handle: Any = None, *, loss: Tensor, correct: Any = None, known: Any = None) -> None:
        values = zip(loss[known].tolist(), correct[known].tolist(), strict=True)
        self.told.append(dict(zip(self.ids[known].tolist(), values, strict=True)))
        super().feedback(handle, loss=loss, correct=correct, known=known)


@pytest.mark.parametrize(
    ("strategy", "options", "number"),
    [(ExperienceReplay, {}, None), (MaximallyInterferedRetrieval, {"candidates": 8}, 3)],
)
def test_exemplars_that_were_trained_on_are_told_with_their_losses(strategy: Any, options: Any, number: Any) -> None:
    trained_on: list[Told] = []
    with Listening(20, 8, proportions="mix_cd") as rehearsal:
        noted = noting(strategy, trained_on, **options)
        small_trainer(small_dataset(100), noted, rehearsal=rehearsal, num_exemplars=number, epochs=2).run()
        learnt = rehearsal.state_dict()["learnt"]["learnt"]
    assert len(rehearsal.told) == len(trained_on) > 2
    assert len(trained_on[-1]) == (number or 8)
    for told, expected in zip(rehearsal.told, trained_on, strict=True):
        assert told.keys() == expected.keys()
        for sample, (loss, right) in expected.items():
            assert told[sample] == (pytest.approx(loss, rel=1e-5), right)
    assert learnt["shown"].sum() > 0


@pytest.mark.parametrize(
    ("strategy", "objective", "message"),
    [
        (AveragedGradientEpisodicMemory(), None, "proportions=mix_cd learns from exemplars in the minibatch, and agem"),
        (
            ExperienceReplay(),
            "regression",
            "which the objective regression does not say; choose",
        ),
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused(strategy: Any, objective: Any, message: str) -> None:
    if objective is not None:
        objective = OBJECTIVES.build(objective, {"target": "label"})
    with Rehearsal(20, 6, proportions="mix_cd", verbose=False) as rehearsal, pytest.raises(ValueError, match=message):
        small_trainer(small_dataset(40), strategy, objective=objective, rehearsal=rehearsal).run()
