"""A-GEM's and GEM's steps on two ranks: both ranks' gradient, projected by that on both ranks' exemplars."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from torch import Tensor
from training.method.replay import Pair, Replay
from training.method.runs import case

from drb.training.strategies import STRATEGIES
from drb.training.strategies.gem import weights_of_references

MARGIN, DAMPING = 0.3, 1e-3


def agem():
    return STRATEGIES.build("agem"), []


def gem():
    return STRATEGIES.build("gem", {"margin": MARGIN, "damping": DAMPING}), []


CASES: dict[str, tuple[Any, dict[str, Any]]] = {"agem": (agem, {}), "gem": (gem, {})}


@functools.cache
def results() -> list[dict[str, Any]]:
    return run_ranks(case, 2, CASES, timeout=60)


def flat(vector: list[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in vector]).double()


def like(values: Tensor, vector: list[Tensor]) -> list[Tensor]:
    parts = values.float().split([v.numel() for v in vector])
    return [part.view_as(v) for part, v in zip(parts, vector, strict=True)]


def reference(replay: Replay, pairs: list[Pair]) -> Tensor | None:
    """The gradient of the mean loss on the exemplars of the first task that both ranks were given in this step."""
    apart = [batch["apart"] for pair in pairs for batch in pair if batch["apart"]]
    if not apart or replay.task == 0:
        return None
    both = {n: np.concatenate([fields[n] for fields in apart]) for n in ("image", "label", "offered_in")}
    old = both["label"] < 2  # the classes of the first task
    assert ((both["offered_in"][:, 0] == 0) == old).all()
    if not old.any():
        return None
    loss = F.cross_entropy(
        replay.outputs({"image": both["image"][old]}), torch.from_numpy(both["label"][old]), reduction="mean"
    )
    return flat(replay.gradient(loss))


def test_agem_projects_the_reduced_gradient_by_the_reduced_reference():
    replay = Replay([result["agem"] for result in results()])
    projected = []

    def step(pairs: list[Pair]) -> list[Tensor]:
        gradient = replay.gradient(replay.loss(pairs, replay.mean_loss))
        g, r = flat(gradient), reference(replay, pairs)
        if r is not None and g @ r < 0:
            projected.append(pairs)
            g = g - (g @ r) / (r @ r) * r
        return like(g, gradient)

    replay.check(replay.run(step))
    labels = np.concatenate([b["apart"]["label"] for pairs in projected for pair in pairs for b in pair])
    assert {0, 1, 2, 3} == set(labels.tolist())  # exemplars of the task itself were drawn, too


def test_gem_projects_by_the_reference_of_each_earlier_task():
    replay = Replay([result["gem"] for result in results()])
    projected = []

    def step(pairs: list[Pair]) -> list[Tensor]:
        gradient = replay.gradient(replay.loss(pairs, replay.mean_loss))
        g, r = flat(gradient), reference(replay, pairs)
        if r is not None and g @ r < 0:
            projected.append(1)
            g = g + max(MARGIN, -float(g @ r) / (float(r @ r) + DAMPING)) * r
        return like(g, gradient)

    replay.check(replay.run(step))
    assert projected


def best_of_all_active_sets(gram: Any, products: Any, margin: float) -> tuple[float, Any]:
    """The least value of the dual problem under v >= margin, by trying which entries lie at the margin."""
    matrix, size = gram + DAMPING * np.eye(len(products)), len(products)
    best = (np.inf, products)
    for free in itertools.chain.from_iterable(itertools.combinations(range(size), n) for n in range(size + 1)):
        v, f = np.full(size, margin), list(free)
        bound = [i for i in range(size) if i not in free]
        if f:
            v[f] = np.linalg.solve(matrix[np.ix_(f, f)], -products[f] - matrix[np.ix_(f, bound)] @ v[bound])
        if (v >= margin - 1e-12).all():
            best = min(best, (0.5 * v @ matrix @ v + products @ v, v), key=lambda pair: pair[0])
    return best


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_solves_its_quadratic_program(margin):
    rng = np.random.default_rng(3)
    several = 0
    for size in itertools.islice(itertools.cycle([1, 2, 3, 5]), 200):
        vectors = rng.normal(size=(size, int(rng.integers(1, 8)))) * 10.0 ** rng.integers(-4, 3)
        gradient = rng.normal(size=vectors.shape[1])
        gram, products = vectors @ vectors.T, vectors @ gradient
        v = weights_of_references(gram, products, margin, DAMPING)
        if (products >= 0).all():
            assert (v == 0).all()
            continue
        least, expected = best_of_all_active_sets(gram, products, margin)
        several += int((expected > margin + 1e-9).sum() > 1)
        value = 0.5 * v @ (gram + DAMPING * np.eye(size)) @ v + products @ v
        assert (v >= margin).all()
        assert value <= least + 1e-9 * max(1.0, abs(least))
    assert several > 10


def test_after_gems_projection_no_earlier_loss_rises():
    rng = np.random.default_rng(4)
    for _ in range(50):
        vectors, gradient = rng.normal(size=(3, 10)), rng.normal(size=10)
        v = weights_of_references(vectors @ vectors.T, vectors @ gradient, 0.0, 1e-9)
        assert (vectors @ (gradient + v @ vectors) >= -1e-6).all()
