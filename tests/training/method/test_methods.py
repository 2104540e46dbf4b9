"""Methods of the field by the seam: equal ranks, bit-identical resumes, and the mathematics of one process.

A replay takes the rows that all ranks were given, step by step, and does with plain torch what the method's paper says.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from torch import Tensor, nn
from training.method.reference import (
    AveragedGradientEpisodicMemory,
    RefreshedDarkExperienceReplay,
)
from training.method.replay import Replay, network_at_the_end
from training.method.runs import ODD_STEP, RATE, SAMPLES, LoaderOfOneRankLess, case
from training.parts import preprocess, small_dataset

from drb.training.method.batch import Batch
from drb.training.models import Network
from drb.training.strategies import ExperienceReplay, Finetune
from drb.training.terms import ElasticWeightConsolidation, ExponentialMovingAverage, SynapticIntelligence, Term

STRENGTH, MOMENTUM = 5.0, 0.9


def er_agem():
    return ExperienceReplay(), [AveragedGradientEpisodicMemory(own_draw=True)]


def er_ewc_ema():
    return ExperienceReplay(), [
        ElasticWeightConsolidation(strength=STRENGTH),
        ExponentialMovingAverage(momentum=MOMENTUM),
    ]


def si():
    return Finetune(), [SynapticIntelligence(strength=STRENGTH)]


def refreshed():
    return RefreshedDarkExperienceReplay(), []


class Frozen(Term):
    """From the second task on the body is frozen, and a scale of its features is learnt."""

    def adapt(self, network: Network, task: int) -> None:
        if task == 1:
            adapt(network)


def adapt(network: Network) -> None:
    network.body.requires_grad_(False)
    network.body.append(Scale())


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.weight


class Prior(Term):
    """Classes have a prior that the loss sees."""

    def adjust(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs + prior(outputs)


def prior(outputs: Tensor) -> Tensor:
    return 0.7 * torch.arange(outputs.shape[1])


def adapted():
    return ExperienceReplay(), [Frozen()]


def adjusted():
    return ExperienceReplay(), [Prior()]


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "er + agem": (er_agem, {}),
    "er + ewc + ema": (er_ewc_ema, {}),
    "si": (si, {}),
    "refreshed": (refreshed, {}),
    "adapted": (adapted, {}),
    "adjusted": (adjusted, {}),
    "an empty buffer": (refreshed, {"loader": LoaderOfOneRankLess}),
}


@functools.cache
def results() -> list[dict[str, Any]]:
    """By rank and method."""
    return run_ranks(case, 2, CASES, timeout=120)


@pytest.mark.parametrize("name", CASES)
def test_ranks_have_equal_weights_after_every_step(name):
    left, right = (result[name] for result in results())
    assert left["digests"] == right["digests"]
    assert len(set(left["digests"])) == len(left["digests"]) > 6  # and every step moved them
    assert left["first"]["learnt"] == right["first"]["learnt"]


@pytest.mark.parametrize("name", CASES)
def test_a_rank_had_batches_without_rows(name):
    """The case is what it claims to be."""
    assert any(batch["new"] == 0 for batch in results()[1][name]["batches"])


@pytest.mark.parametrize("name", CASES)
def test_a_run_resumed_at_an_odd_step_ends_bit_identically(name):
    for result in (result[name] for result in results()):
        assert result["again"] == result["first"]
        assert result["digests_again"] == result["digests"][ODD_STEP:]


# -- replays


def replay_of(name: str) -> Replay:
    return Replay([result[name] for result in results()])


def fisher(network: nn.Module, task: int) -> list[Tensor]:
    """The mean over the task's samples of the squared gradient of one sample's log-likelihood."""
    train = small_dataset(SAMPLES).train
    rows = [i for i in range(SAMPLES) if int(train.labels[i]) // 2 == task]
    sums = [torch.zeros_like(p) for p in network.parameters()]
    for row in rows:
        sample = train.gather(np.array([row]))
        loss = F.cross_entropy(network(preprocess().evaluate(sample["image"])), sample["label"])
        for total, g in zip(sums, torch.autograd.grad(loss, list(network.parameters())), strict=True):
            total += g.square()
    return [total / len(rows) for total in sums]


def padded(values: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """With zeros for the rows that a head has gained."""
    grown = [torch.zeros_like(p) for p in like]
    for new, old in zip(grown, values, strict=True):
        new[: len(old)] = old
    return grown


def test_ewc_holds_weights_by_the_squares_of_per_sample_gradients_and_ema_evaluates_the_average():
    replay = replay_of("er + ewc + ema")
    importance: list[Tensor] = []
    anchor: list[Tensor] = []
    average, steps = [p.detach().clone() for p in replay.parameters], list[int]()

    def end_task() -> None:
        steps.clear()
        found = fisher(replay.network, replay.task)
        importance[:] = [a + b for a, b in zip(padded(importance, found), found, strict=True)] if importance else found
        anchor[:] = [p.detach().clone() for p in replay.parameters]

    def step(pairs: Any) -> list[Tensor]:
        before = [p.detach().clone() for p in replay.parameters]
        gradient = replay.gradient(replay.loss(pairs, replay.mean_loss))
        if anchor:
            held = padded(anchor, replay.parameters)
            for g, f, p, a in zip(gradient, padded(importance, replay.parameters), before, held, strict=True):
                g += STRENGTH * f * (p - a)
        if len(average[-1]) < len(before[-1]):  # new rows begin as the new weights
            for place, new in enumerate(before):
                old, average[place] = average[place], new.clone()
                average[place][: len(old)] = old
        steps.append(len(steps) + 1)  # of the task
        kept = min(MOMENTUM, steps[-1] / (steps[-1] + 4))
        for mean, p, g in zip(average, before, gradient, strict=True):
            mean.mul_(kept).add_((p - RATE * g) * (1 - kept))
        return gradient

    replay.check(replay.run(step, end_task))
    names = [name for name, _ in replay.network.named_parameters()]
    replay.check(dict(zip(names, average, strict=True)), "evaluated")


def test_si_adds_up_the_path_of_the_tasks_own_gradient():
    replay = replay_of("si")
    path, importance, anchor = ([torch.zeros_like(p) for p in replay.parameters] for _ in range(3))
    anchor[:] = [p.detach().clone() for p in replay.parameters]

    def end_task() -> None:
        for place, p in enumerate(replay.parameters):
            if len(anchor[place]) < len(p):
                continue
            moved = (p.detach() - anchor[place]).square()
            importance[place] += path[place].relu() / (moved + 0.1)
            anchor[place], path[place] = p.detach().clone(), torch.zeros_like(p)

    def step(pairs: Any) -> list[Tensor]:
        if len(anchor[-1]) < len(replay.parameters[-1]):
            grown = [p.detach().clone() for p in replay.parameters]
            for new, old in zip(grown, anchor, strict=True):
                new[: len(old)] = old
            anchor[:] = grown
            importance[:], path[:] = padded(importance, grown), padded(path, grown)
        gradient = replay.gradient(replay.loss(pairs, replay.mean_loss))
        total = [
            g + 2 * STRENGTH * f * (p.detach() - a)
            for g, f, p, a in zip(gradient, importance, replay.parameters, anchor, strict=True)
        ]
        for w, g, t in zip(path, gradient, total, strict=True):
            w += g * RATE * t
        return total

    replay.check(replay.run(step, end_task))


def test_stored_outputs_are_refreshed_at_a_tasks_end():
    for result in results():
        stored = result["refreshed"]["stored"]
        inputs = preprocess().evaluate(torch.from_numpy(stored["image"]))
        expected = network_at_the_end([result["refreshed"] for result in results()])(inputs).detach().numpy()
        np.testing.assert_allclose(stored["logits"], expected, rtol=0, atol=1e-6)


def test_what_a_term_adds_is_trained_and_what_it_freezes_is_not():
    replay = replay_of("adapted")

    def step(pairs: Any) -> list[Tensor]:
        if replay.task == 1 and not isinstance(replay.network.body[-1], Scale):
            adapt(replay.network)
        loss = replay.loss(pairs, replay.mean_loss)
        gradients = torch.autograd.grad(loss, [p for p in replay.parameters if p.requires_grad])
        found = iter(gradients)
        return [next(found) if p.requires_grad else torch.zeros_like(p) for p in replay.parameters]

    expected = replay.run(step)
    assert not torch.equal(expected["body.3.weight"], torch.ones(8))
    replay.check(expected)


def test_the_loss_sees_adjusted_outputs():
    replay = replay_of("adjusted")
    replay.adjust = lambda outputs: outputs + prior(outputs)  # type: ignore[method-assign]
    replay.check(replay.run(lambda pairs: replay.gradient(replay.loss(pairs, replay.mean_loss))))


def test_a_rank_whose_buffer_stays_empty_trains_on_the_others_exemplars():
    full, empty = (result["an empty buffer"] for result in results())
    assert not empty["stored"]
    assert len(full["stored"]["label"]) == 10
    assert all(batch["new"] == 0 for batch in empty["batches"])
    assert len(empty["batches"][-1]["fields"]["label"]) == 6  # two draws of three
    inputs = preprocess().evaluate(torch.from_numpy(full["stored"]["image"]))
    expected = network_at_the_end([result["an empty buffer"] for result in results()])(inputs).detach().numpy()
    np.testing.assert_allclose(full["stored"]["logits"], expected, rtol=0, atol=1e-6)
