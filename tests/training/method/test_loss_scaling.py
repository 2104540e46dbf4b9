"""Hooks under loss scaling, as fp16 has it, on the CPU: methods see unscaled gradients; bad steps leave no trace."""

from __future__ import annotations

import pytest
import torch
from training.method.reference import AveragedGradientEpisodicMemory
from training.parts import close, small_dataset, small_trainer, weights

from drb import Rehearsal
from drb.training import Trainer
from drb.training.finite import FiniteCheck
from drb.training.learner import Learner
from drb.training.strategies import Finetune, Strategy
from drb.training.terms import TERMS, Term


def train(terms, scale: float | None, *, strategy: Strategy | None = None, **training) -> Trainer:
    """scale: the first one of a GradScaler; None: without. Learners refuse fp16 on the CPU, so the scaler is put in."""
    learn = Trainer._learn

    def scaled(trainer: Trainer, network) -> Learner:
        learner = learn(trainer, network)
        if scale is not None:
            learner._scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10_000)
            learner._finite = FiniteCheck("stop", trainer._world, loss_scaling=True)
        return learner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_learn", scaled)
        with Rehearsal(10, 3, batch_size=8, verbose=False) as rehearsal:
            trainer = small_trainer(
                small_dataset(80),
                strategy or Finetune(),
                terms=terms,
                rehearsal=rehearsal,
                batch_size=8,
                epochs=2,
                **training,
            )
            trainer.run()
    return trainer


@pytest.mark.parametrize("name", ["ewc", "si", "rwalk", "agem"])
@pytest.mark.parametrize("training", [{}, {"accumulate": 3, "clip_norm": 0.5}])
def test_hooks_see_what_they_see_without_scaling(name, training):
    def terms():
        return [AveragedGradientEpisodicMemory()] if name == "agem" else [TERMS.build(name, {"strength": 3.0})]

    close(weights(train(terms(), 1024.0, **training).network), weights(train(terms(), None, **training).network))


class Watching(Term):
    """Counts steps, and spoils the gradient of one of them."""

    def __post_init__(self) -> None:
        self._moved: list[int] = []
        self._weights: list[float] = []

    def project(self, step, gradient):
        self._weights.append(float(step.weights @ step.weights))
        if step.number == 5:
            gradient.mul_(torch.inf)

    def updated(self, step):
        self._moved.append(step.number)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_gradient_that_a_method_makes_infinite_is_not_stepped_with(clip_norm):
    term, path = Watching(), TERMS.build("rwalk")
    trainer = train([term, path], 1024.0, clip_norm=clip_norm)
    assert term._moved == [step for step in range(1, trainer.steps + 1) if step != 5]
    assert term._weights[5] == term._weights[4]
    assert all(torch.isfinite(value).all() for value in trainer.network.state_dict().values())


class Steep(Finetune):
    def loss(self, batch):
        return 8 * super().loss(batch)


def test_an_overflow_lowers_the_scale_and_leaves_no_trace_in_what_methods_keep():
    term, si, rwalk = Watching(), TERMS.build("si"), TERMS.build("rwalk")
    trainer = train([term, si, rwalk], 3e38, strategy=Steep())
    first = min(term._moved)
    assert first > 1  # the first steps overflowed
    assert len(set(term._weights[:first])) == 1
    for part in (si, rwalk):
        assert all(
            torch.isfinite(v).all()
            for vector in part.learnt().values()
            for v in getattr(vector, "tensors", {}).values()
        )
    assert trainer.progress.steps > first
