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
    DarkExperienceReplayPlusPlus,
    Herding,
    LinearProbeThenFineTune,
    MaximallyInterferedRetrieval,
    RefreshedDarkExperienceReplay,
    SynapticIntelligence,
)
from training.method.runs import ODD_STEP, RATE, SAMPLES, LoaderOfOneRankLess, case
from training.parts import make_network, preprocess, small_dataset

from drb.seeding import derive_seed
from drb.training.method.batch import Batch
from drb.training.models import Network
from drb.training.strategies import ExperienceReplay, Finetune
from drb.training.terms import ElasticWeightConsolidation, ExponentialMovingAverage, Term

STRENGTH, MOMENTUM = 5.0, 0.9


def derpp():
    return DarkExperienceReplayPlusPlus(alpha=0.7, beta=0.4), []


def agem():
    return Finetune(), [AveragedGradientEpisodicMemory()]


def er_agem():
    return ExperienceReplay(), [AveragedGradientEpisodicMemory(own_draw=True)]


def er_ewc_ema():
    return ExperienceReplay(), [
        ElasticWeightConsolidation(strength=STRENGTH),
        ExponentialMovingAverage(momentum=MOMENTUM),
    ]


def si():
    return Finetune(), [SynapticIntelligence(strength=STRENGTH)]


def mir():
    return MaximallyInterferedRetrieval(candidates=8), []


def lp_ft():
    return LinearProbeThenFineTune(rate=0.02), []


def refreshed():
    return RefreshedDarkExperienceReplay(), []


def icarl():
    return Herding(per_class=2), []


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
    "derpp": (derpp, {}),
    "agem": (agem, {}),
    "er + agem": (er_agem, {}),
    "er + ewc + ema": (er_ewc_ema, {}),
    "si": (si, {}),
    "mir": (mir, {}),
    "lp_ft": (lp_ft, {}),
    "refreshed": (refreshed, {}),
    "icarl": (icarl, {}),
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


class Replay:
    """One process, all ranks' rows."""

    def __init__(self, name: str) -> None:
        ranks = [result[name]["batches"] for result in results()]
        self.network = make_network(2, 0)
        last = max(batch["step"] for batch in ranks[0])
        self.steps = [
            [pair for pair in zip(*ranks, strict=True) if pair[0]["step"] == step] for step in range(1, last + 1)
        ]
        self.steps_per_task = len(self.steps) // 2
        self.task = 0

    def grow(self) -> None:
        self.network.grow(4, derive_seed(0, "head", 1))
        self.task = 1

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.network.parameters())

    def outputs(self, fields: dict[str, Any]) -> Tensor:
        return self.network(preprocess().evaluate(torch.from_numpy(fields["image"])))

    def loss(self, pairs: Any, of_batch: Any) -> Tensor:
        """Of a step: each batch counts by its rows."""
        sizes = [sum(len(batch["fields"]["label"]) for batch in pair) for pair in pairs]
        return sum(of_batch(pair) * size / sum(sizes) for pair, size in zip(pairs, sizes, strict=True))

    def run(self, step: Any, end_task: Any = lambda: None) -> dict[str, Tensor]:
        for index, pairs in enumerate(self.steps):
            if index == self.steps_per_task:
                end_task()
                self.grow()
            gradient = step(pairs)
            with torch.no_grad():
                for parameter, g in zip(self.parameters, gradient, strict=True):
                    parameter -= RATE * g
        end_task()
        return self.network.state_dict()

    def mean_loss(self, pair: Any, rows: slice = slice(None)) -> Tensor:
        """Cross-entropy over both ranks' rows."""
        both = {n: np.concatenate([batch["fields"][n] for batch in pair]) for n in ("image", "label")}
        return F.cross_entropy(self.adjust(self.outputs(both)), torch.from_numpy(both["label"]))

    def adjust(self, outputs: Tensor) -> Tensor:
        return outputs

    def gradient(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, self.parameters))


def check(name: str, expected: dict[str, Tensor], which: str = "weights", tolerance: float = 2e-6) -> None:
    for rank in results():
        for parameter, value in expected.items():
            np.testing.assert_allclose(rank[name][which][parameter], value.numpy(), rtol=0, atol=tolerance)


def part(pair: Any, rows: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Rows of both ranks; rows: of a batch."""
    return {
        n: np.concatenate([batch["fields"][n][rows(batch)] for batch in pair if n in batch["fields"]]) for n in names
    }


def test_derpp_replays_labels_of_one_draw_and_outputs_of_another():
    replay = Replay("derpp")
    assert any("logits" in batch["fields"] for pair in replay.steps[0] for batch in pair)

    def draws(batch: Any) -> tuple[slice, slice]:
        new, size = batch["new"], (len(batch["fields"]["label"]) - batch["new"]) // 2
        return slice(new, new + size), slice(new + size, new + 2 * size)

    def of_batch(pair: Any) -> Tensor:
        total = torch.zeros(())
        new = part(pair, lambda batch: slice(batch["new"]), ("image", "label"))
        total = total + F.cross_entropy(replay.outputs(new), torch.from_numpy(new["label"]))
        if not len(part(pair, lambda batch: draws(batch)[0], ("label",))["label"]):
            return total
        first = part(pair, lambda batch: draws(batch)[0], ("image", "logits"))
        last = part(pair, lambda batch: draws(batch)[1], ("image", "label"))
        outputs, stored = replay.outputs(first), torch.from_numpy(first["logits"])[:, : replay.network.num_classes]
        known = ~stored.isnan()
        distance = torch.stack(
            [(o[k] - s[k]).square().mean() for o, s, k in zip(outputs, stored, known, strict=True)]
        ).mean()
        return total + 0.4 * F.cross_entropy(replay.outputs(last), torch.from_numpy(last["label"])) + 0.7 * distance

    check("derpp", replay.run(lambda pairs: replay.gradient(replay.loss(pairs, of_batch))))


def test_agem_projects_the_reduced_gradient_by_the_reduced_reference():
    replay = Replay("agem")
    projected = []

    def step(pairs: Any) -> list[Tensor]:
        gradient = replay.gradient(replay.loss(pairs, replay.mean_loss))
        apart = [batch["apart"] for pair in pairs for batch in pair if batch["apart"]]
        if not apart or not sum(len(fields["label"]) for fields in apart):
            return gradient
        both = {n: np.concatenate([fields[n] for fields in apart]) for n in ("image", "label")}
        reference = replay.gradient(F.cross_entropy(replay.outputs(both), torch.from_numpy(both["label"])))
        g, r = (torch.cat([value.flatten() for value in vector]) for vector in (gradient, reference))
        if g @ r < 0:
            projected.append(1)
            g = g - (g @ r) / (r @ r) * r
        return [p.view_as(v) for p, v in zip(g.split([v.numel() for v in gradient]), gradient, strict=True)]

    check("agem", replay.run(step))
    assert projected


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
    replay = Replay("er + ewc + ema")
    importance: list[Tensor] = []
    anchor: list[Tensor] = []
    average = [p.detach().clone() for p in replay.parameters]

    def end_task() -> None:
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
        for mean, p, g in zip(average, before, gradient, strict=True):
            mean.mul_(MOMENTUM).add_((p - RATE * g) * (1 - MOMENTUM))
        return gradient

    check("er + ewc + ema", replay.run(step, end_task))
    names = [name for name, _ in replay.network.named_parameters()]
    check("er + ewc + ema", dict(zip(names, average, strict=True)), "evaluated")


def test_si_adds_up_the_path_of_the_tasks_own_gradient():
    replay = Replay("si")
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

    check("si", replay.run(step, end_task))


def test_mir_trains_on_as_many_exemplars_as_it_chose_and_pays_for_the_candidates():
    for result in results():
        batches = result["mir"]["batches"]
        assert {len(batch["fields"]["label"]) - batch["new"] for batch in batches} <= {0, 1, 2, 3}
        assert len(batches[-1]["fields"]["label"]) - batches[-1]["new"] == 3
        trained, forward = result["mir"]["cost"]
        assert forward > trained / 2


def test_lp_ft_trains_the_head_alone_first():
    """Its weights after the probe are those of a network whose body never moved."""
    replay = Replay("lp_ft")
    names = [name for name, _ in replay.network.named_parameters()]
    phases = len(replay.steps) // 4  # two tasks of two phases of one epoch

    def step(pairs: Any) -> list[Tensor]:
        in_probe = (pairs[0][0]["step"] - 1) // phases % 2 == 0
        gradient = replay.gradient(replay.loss(pairs, replay.mean_loss))
        factor = 1.0 if in_probe else 0.02 / RATE
        return [
            g * factor if not in_probe or name.startswith("head") else torch.zeros_like(g)
            for name, g in zip(names, gradient, strict=True)
        ]

    check("lp_ft", replay.run(step))


def network_at_the_end(name: str) -> nn.Module:
    network = make_network(4, 0).eval()
    network.load_state_dict({n: torch.from_numpy(v) for n, v in results()[0][name]["weights"].items()})
    return network


def test_stored_outputs_are_refreshed_at_a_tasks_end():
    for result in results():
        stored = result["refreshed"]["stored"]
        inputs = preprocess().evaluate(torch.from_numpy(stored["image"]))
        expected = network_at_the_end("refreshed")(inputs).detach().numpy()
        np.testing.assert_allclose(stored["logits"], expected, rtol=0, atol=1e-6)


def test_herding_keeps_what_one_process_would_choose():
    """Of the last task's classes; brute force over all samples."""
    train = small_dataset(SAMPLES).train
    network = network_at_the_end("icarl")
    stored = [result["icarl"]["stored"] for result in results()]
    kept = {int(i): int(label) for s in stored for i, label in zip(s["sample_id"], s["label"], strict=True)}
    for label in (2, 3):
        rows = [i for i in range(SAMPLES) if int(train.labels[i]) == label]
        with torch.no_grad():
            features = F.normalize(network.features(preprocess().evaluate(train.gather(np.array(rows))["image"])))
        mean = features.mean(0)
        first = int((mean - features).norm(dim=1).argmin())
        rest = [i for i in range(len(rows)) if i != first]
        second = min(rest, key=lambda i: float((mean - (features[first] + features[i]) / 2).norm()))
        assert {i for i, of in kept.items() if of == label} == {rows[first], rows[second]}


def test_icarl_predicts_the_class_whose_exemplars_mean_is_nearest():
    stored = [result["icarl"]["stored"] for result in results()]
    labels = np.concatenate([s["label"] for s in stored])
    network = network_at_the_end("icarl")
    with torch.no_grad():
        images = torch.from_numpy(np.concatenate([s["image"] for s in stored]))
        features = F.normalize(network.features(preprocess().evaluate(images)))
        means = torch.stack([F.normalize(features[labels == c].mean(0), dim=0) for c in range(4)])
        everything = network.features(preprocess().evaluate(small_dataset(SAMPLES).train.columns["image"]))
        expected = -torch.cdist(F.normalize(everything), means)
    for result in results():
        np.testing.assert_allclose(result["icarl"]["predictions"], expected.numpy(), rtol=0, atol=1e-5)


def test_what_a_term_adds_is_trained_and_what_it_freezes_is_not():
    replay = Replay("adapted")

    def step(pairs: Any) -> list[Tensor]:
        if replay.task == 1 and not isinstance(replay.network.body[-1], Scale):
            adapt(replay.network)
        loss = replay.loss(pairs, replay.mean_loss)
        gradients = torch.autograd.grad(loss, [p for p in replay.parameters if p.requires_grad])
        found = iter(gradients)
        return [next(found) if p.requires_grad else torch.zeros_like(p) for p in replay.parameters]

    expected = replay.run(step)
    assert not torch.equal(expected["body.3.weight"], torch.ones(8))
    check("adapted", expected)


def test_the_loss_sees_adjusted_outputs():
    replay = Replay("adjusted")
    replay.adjust = lambda outputs: outputs + prior(outputs)  # type: ignore[method-assign]
    check("adjusted", replay.run(lambda pairs: replay.gradient(replay.loss(pairs, replay.mean_loss))))


def test_a_rank_whose_buffer_stays_empty_trains_on_the_others_exemplars():
    full, empty = (result["an empty buffer"] for result in results())
    assert not empty["stored"]
    assert len(full["stored"]["label"]) == 10
    assert all(batch["new"] == 0 for batch in empty["batches"])
    assert len(empty["batches"][-1]["fields"]["label"]) == 6  # two draws of three
    inputs = preprocess().evaluate(torch.from_numpy(full["stored"]["image"]))
    expected = network_at_the_end("an empty buffer")(inputs).detach().numpy()
    np.testing.assert_allclose(full["stored"]["logits"], expected, rtol=0, atol=1e-6)
