"""Small levers on two ranks against one process by hand: priors, loss shares, averages, a review, nearest means."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from torch import Tensor, nn
from training.method.reference import DarkExperienceReplayPlusPlus
from training.method.runs import EXEMPLARS, ODD_STEP, SAMPLES, LoaderOfOneRankLess, case
from training.parts import make_network, preprocess, small_dataset
from training.terms.replay import Reference, Vector, replay, values
from training.terms.rows import of_step, rows_of, shares_of

from drb.seeding import sample_keys
from drb.training.strategies import ExperienceReplay
from drb.training.terms import (
    BalancedSoftmax,
    ExponentialMovingAverage,
    FinalReview,
    LogitRefresh,
    MeanTeacher,
    NearestMean,
    TaskEndStorage,
)

MOMENTUM, STRENGTH, RATE = 0.9, 0.8, 0.2


def running():
    return ExperienceReplay(), [BalancedSoftmax(rate=RATE)]


def known_tasks():
    return ExperienceReplay(), [BalancedSoftmax(prior="tasks", count_every=2, strength=0.5)]


def share():
    return ExperienceReplay(rehearsed_share=0.3), []


def mean_teacher():
    return ExperienceReplay(), [MeanTeacher(momentum=MOMENTUM, strength=STRENGTH)]


def refreshed():
    return DarkExperienceReplayPlusPlus(shared_draw=True), [ExponentialMovingAverage(momentum=MOMENTUM), LogitRefresh()]


def reviewed():
    return ExperienceReplay(), [FinalReview(epochs=2), NearestMean(), ExponentialMovingAverage(momentum=MOMENTUM)]


def stored_at_task_ends():
    return DarkExperienceReplayPlusPlus(shared_draw=True), [TaskEndStorage(), LogitRefresh()]


CASES: dict[str, Any] = {
    **{fn.__name__: (fn, {}) for fn in (running, known_tasks, share, mean_teacher, refreshed, reviewed)},
    "stored_at_task_ends": (stored_at_task_ends, {"rehearsal": {"capacity": 11, "seed": 5}}),
    "evaluated": (running, {"eval_every": 3}),
    "one rank less": (running, {"loader": LoaderOfOneRankLess}),
}


@functools.cache
def results() -> list[dict[str, Any]]:
    return run_ranks(case, 2, CASES, timeout=120)


@pytest.mark.parametrize("name", CASES)
def test_ranks_agree_and_resume_exactly(name):
    left, right = (result[name] for result in results())
    assert left["digests"] == right["digests"]
    assert len(set(left["digests"])) == len(left["digests"]) > 6
    assert left["first"]["learnt"] == right["first"]["learnt"]
    for rank in (left, right):
        assert rank["again"] == rank["first"]
        assert rank["digests_again"] == rank["digests"][ODD_STEP:]


def test_evaluation_in_the_midst_of_a_task_changes_nothing_and_is_averaged():
    for rank in results():
        assert rank["evaluated"]["digests"] == rank["running"]["digests"]
        steps = [step for step, _ in rank["evaluated"]["during"]]
        assert steps == [3 * (i + 1) for i in range(len(rank["running"]["digests"]) // 3)]
        assert all(0 <= score <= 1 for _, score in rank["evaluated"]["during"])
    assert results()[0]["evaluated"]["during"] == results()[1]["evaluated"]["during"]


def test_at_task_ends_each_class_keeps_its_smallest_keys_over_all_ranks():
    """Of 22 places the first two of four classes have six, the others five. All have the outputs of the task's end."""
    parts = [result["stored_at_task_ends"]["stored"] for result in results()]
    kept = {int(i): int(c) for part in parts for i, c in zip(part["sample_id"], part["label"], strict=True)}
    train = small_dataset(SAMPLES).train
    keys = sample_keys(train.sample_ids, 5)
    expected = {}
    for label, quota in enumerate((6, 6, 5, 5)):
        members = np.flatnonzero(train.labels == label)
        expected |= dict.fromkeys(train.sample_ids[members[np.argsort(keys[members])[:quota]]].tolist(), label)
    assert kept == expected
    assert not np.isnan(np.concatenate([part["logits"] for part in parts])).any()
    for result in results():  # the second task's own samples are not rehearsed in it
        for batch in result["stored_at_task_ends"]["batches"]:
            own, rehearsed = np.split(batch["fields"]["label"], [batch["new"]])
            assert not {*own.tolist()} & {*rehearsed.tolist()}


def test_cost_is_the_mean_over_ranks():
    left, right = (result["one rank less"] for result in results())
    assert left["cost"][0] > right["cost"][0] > 0  # one rank has exemplars only
    mean = {"rows_trained": (left["cost"][0] + right["cost"][0]) / 2, "rows_forward": 0.0}
    for rank in (left, right):
        assert {name: rank["mean_cost"][name] for name in mean} == mean
        assert rank["mean_cost"]["method_bytes"] == 2 * 4 * 4 + 8 * 4  # two shares and a count of each class


# -- by hand


def check(name: str, loss: Any, reference: Reference | None = None) -> None:
    ranks = [result[name] for result in results()]
    batches = [rank["batches"] for rank in ranks]
    network = replay(batches, "class_incremental", 2, reference or Reference(), loss)
    for rank in ranks:
        for (parameter, _), value in zip(network.named_parameters(), values(network), strict=True):
            np.testing.assert_allclose(rank["weights"][parameter], value.numpy(), rtol=0, atol=1e-5)


def test_the_running_prior_is_that_of_all_ranks_rows():
    prior = torch.zeros(2, dtype=torch.float64)

    def loss(network: nn.Module, pairs: Any) -> Tensor:
        nonlocal prior
        prior = F.pad(prior, (0, network.num_classes - len(prior)))

        def of_batch(pair: Any) -> Tensor:
            nonlocal prior
            images, labels = rows_of(pair, "all")
            prior = prior + RATE * (shares_of(labels, len(prior)) - prior)
            logs = torch.where(prior > 0, prior.log(), -1e9)
            return F.cross_entropy(network(images) + logs, labels)

        return of_step(pairs, of_batch)

    check("running", loss)


def test_the_prior_of_known_tasks_is_that_of_the_task_and_of_what_is_stored():
    counted: list[Tensor] = []
    seen = {"task": 0}

    def loss(network: nn.Module, pairs: Any) -> Tensor:
        task = network.num_classes // 2 - 1
        count = task != seen["task"] or not counted or (pairs[0][0]["step"] - 1) % 2 == 0
        seen["task"] = task

        def of_batch(pair: Any) -> Tensor:
            nonlocal count
            if count:
                stored = torch.zeros(network.num_classes).double()
                for batch in pair:
                    for label, number in batch["stored"].items():
                        stored[label] += number
                counted[:], count = [stored], (pairs[0][0]["step"] - 1) % 2 == 0
            new, rehearsed = (len(rows_of(pair, kind)[1]) for kind in ("new", "rehearsed"))
            stored = F.pad(counted[0], (0, network.num_classes - len(counted[0])))
            of_task = torch.zeros(network.num_classes).double()
            of_task[2 * task : 2 * task + 2] = 0.5
            prior = (new * of_task + rehearsed * stored / stored.sum().clamp(min=1)) / (new + rehearsed)
            images, labels = rows_of(pair, "all")
            return F.cross_entropy(network(images) + torch.where(prior > 0, 0.5 * prior.log(), -1e9), labels)

        return of_step(pairs, of_batch)

    check("known_tasks", loss)


def test_the_rehearsed_rows_have_their_share_of_the_loss():
    def loss(network: nn.Module, pairs: Any) -> Tensor:
        def of_batch(pair: Any) -> Tensor:
            (new, labels), (past, past_labels) = rows_of(pair, "new"), rows_of(pair, "rehearsed")
            value = F.cross_entropy(network(new), labels)
            return value if not len(past) else 0.7 * value + 0.3 * F.cross_entropy(network(past), past_labels)

        return of_step(pairs, of_batch)

    check("share", loss)


class Average(Reference):
    """The moving average of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.average: Vector = [w.double() for w in values(make_network(2, 0))]
        self.steps = 0  # of the task

    def grow(self, weights: Vector) -> Vector:
        grown = [w.clone() for w in weights]
        for new, old in zip(grown, self.average, strict=True):
            new[: len(old)] = old
        self.average = grown
        return grown

    def stepped(self, gradient: Vector, before: Vector, after: Vector) -> None:
        self.steps += 1
        kept = min(MOMENTUM, self.steps / (self.steps + 4))
        self.average = [kept * m + (1 - kept) * a for m, a in zip(self.grow(before), after, strict=True)]

    def end_task(self, network: nn.Module, task: Any) -> None:
        self.steps = 0


def test_the_mean_teacher_holds_the_outputs_for_exemplars():
    average = Average()

    def loss(network: nn.Module, pairs: Any) -> Tensor:
        names = [name for name, _ in network.named_parameters()]
        teacher = dict(zip(names, average.grow(values(network)), strict=True))

        def of_batch(pair: Any) -> Tensor:
            images, labels = rows_of(pair, "all")
            value, (past, _) = F.cross_entropy(network(images), labels), rows_of(pair, "rehearsed")
            if len(past):
                taught = torch.func.functional_call(network, teacher, (past,)).detach()
                value = value + STRENGTH * (network(past) - taught).square().mean()
            return value

        return of_step(pairs, of_batch)

    check("mean_teacher", loss, average)


def evaluated(name: str) -> nn.Module:
    network = make_network(4, 0).eval()
    network.load_state_dict({n: torch.from_numpy(v) for n, v in results()[0][name]["evaluated"].items()})
    return network


def test_stored_outputs_become_those_of_the_averaged_weights():
    assert not np.allclose(
        results()[0]["refreshed"]["weights"]["head.weight"], evaluated("refreshed").head.weight.detach()
    )
    for result in results():
        stored = result["refreshed"]["stored"]
        expected = evaluated("refreshed")(preprocess().evaluate(torch.from_numpy(stored["image"]))).detach()
        np.testing.assert_allclose(stored["logits"], expected, rtol=0, atol=1e-6)


def test_a_review_draws_as_many_exemplars_as_are_stored_in_equally_many_steps():
    left, right = (result["reviewed"] for result in results())
    pairs = zip(left["batches"], right["batches"], strict=True)
    review = [pair for pair in pairs if not pair[0]["new"] and not pair[1]["new"]]
    assert len(review) == 2 * 2 * -(-20 // (2 * EXEMPLARS))  # two tasks, two epochs; 20 exemplars are stored
    kept = {int(i) for rank in (left, right) for i in rank["stored"]["sample_id"]}
    for pair in review[len(review) // 2 :]:
        for batch in pair:
            assert len(batch["fields"]["sample_id"]) == EXEMPLARS
            assert set(batch["fields"]["sample_id"].tolist()) <= kept
    check("reviewed", None)


def test_the_nearest_mean_is_that_of_all_ranks_exemplars_under_the_evaluated_network():
    stored = [result["reviewed"]["stored"] for result in results()]
    labels = np.concatenate([s["label"] for s in stored])
    network = evaluated("reviewed")
    with torch.no_grad():
        images = torch.from_numpy(np.concatenate([s["image"] for s in stored]))
        features = F.normalize(network.features(preprocess().evaluate(images)))
        means = torch.stack([F.normalize(features[labels == c].mean(0), dim=0) for c in range(4)])
        everything = F.normalize(network.features(preprocess().evaluate(small_dataset(SAMPLES).train.columns["image"])))
        own = nn.functional.normalize(features_of_trained("reviewed"))
    for result in results():
        found = result["reviewed"]["predictions"]
        np.testing.assert_allclose(found, -torch.cdist(own, means).numpy(), rtol=0, atol=1e-5)
    assert not torch.allclose(own, everything)


def features_of_trained(name: str) -> Tensor:
    """`runs` predicts by the trained network."""
    network = make_network(4, 0).eval()
    network.load_state_dict({n: torch.from_numpy(v) for n, v in results()[0][name]["weights"].items()})
    with torch.no_grad():
        features: Tensor = network.features(preprocess().evaluate(small_dataset(SAMPLES).train.columns["image"]))
    return features
