"""What losses of strategies are, on two ranks: those of one process of plain torch on the rows of both."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from torch import Tensor, nn
from training.method.replay import Pair, Replay, draws, exemplars, new_rows, rows_of
from training.method.runs import case

from drb.training.strategies import STRATEGIES

DISTILLED, TEMPERATURE = 0.6, 3.0


def er_ace():
    return STRATEGIES.build("er_ace"), []


def der():
    return STRATEGIES.build("der", {"alpha": 0.7}), []


def derpp():
    return STRATEGIES.build("derpp", {"alpha": 0.7, "beta": 0.4}), []


def derpp_shared():
    return STRATEGIES.build("derpp", {"alpha": 0.7, "beta": 0.4, "shared_draw": True}), []


def lwf():
    return STRATEGIES.build("lwf", {"strength": DISTILLED, "temperature": TEMPERATURE}), []


def lp_ft():
    return STRATEGIES.build("lp_ft", {"finetune_rate": 0.2}), []


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    name: (make, {}) for name, make in [(f.__name__, f) for f in (er_ace, der, derpp, derpp_shared, lwf)]
} | {"lp_ft": (lp_ft, {"epochs": 1})}


@functools.cache
def results() -> list[dict[str, Any]]:
    """By rank and method."""
    return run_ranks(case, 2, CASES, timeout=60)


def replay_of(name: str) -> Replay:
    return Replay([result[name] for result in results()])


def labels(fields: dict[str, Any]) -> Tensor:
    return torch.from_numpy(fields["label"])


def test_er_ace_compares_new_rows_among_the_classes_of_both_ranks_minibatches():
    replay = replay_of("er_ace")
    differed = []

    def of_batch(pair: Pair) -> Tensor:
        new = rows_of(pair, new_rows, "image", "label")
        present = sorted(set(new["label"].tolist()))
        differed.append(any(set(batch["fields"]["label"][new_rows(batch)].tolist()) != set(present) for batch in pair))
        places = torch.tensor([present.index(label) for label in new["label"]])
        loss = F.cross_entropy(replay.outputs(new)[:, present], places)
        old = rows_of(pair, exemplars, "image", "label")
        return loss + F.cross_entropy(replay.outputs(old), labels(old)) if len(old["label"]) else loss

    replay.run_loss(of_batch)
    assert any(differed)


def distance(outputs: Tensor, stored: Tensor) -> Tensor:
    """By hand: the mean over exemplars of the mean square over what was known."""
    known = ~stored[:, : outputs.shape[1]].isnan()
    rows = [(o[k] - s[: len(k)][k]).square().mean() for o, s, k in zip(outputs, stored, known, strict=True)]
    return torch.stack(rows).mean()


@pytest.mark.parametrize("name", ["der", "derpp", "derpp_shared"])
def test_dark_experience_replay_is_the_papers_loss(name):
    replay = replay_of(name)

    def of_batch(pair: Pair) -> Tensor:
        new = rows_of(pair, new_rows, "image", "label")
        loss = F.cross_entropy(replay.outputs(new), labels(new))
        parts = draws if name == "derpp" else lambda batch: (exemplars(batch),) * 2
        first = rows_of(pair, lambda batch: parts(batch)[0], "image", *(["logits"] if has_exemplars(pair) else []))
        if not has_exemplars(pair):
            return loss
        loss = loss + 0.7 * distance(replay.outputs(first), torch.from_numpy(first["logits"]))
        last = rows_of(pair, lambda batch: parts(batch)[1], "image", "label")
        return loss if name == "der" else loss + 0.4 * F.cross_entropy(replay.outputs(last), labels(last))

    replay.run_loss(of_batch)


def has_exemplars(pair: Pair) -> bool:
    return any(len(batch["fields"]["label"]) > batch["new"] for batch in pair)


def test_stored_outputs_are_those_of_the_step_in_which_a_sample_was_offered_last():
    """The head had two outputs in the first task: of its exemplars two are known, later four.

    What was attached in one step is drawn two steps later.
    """
    replay = replay_of("der")
    offered: dict[int, list[Tensor]] = {}
    compared, is_refreshed = [], []

    def of_batch(pair: Pair) -> Tensor:
        new = rows_of(pair, new_rows, "image", "label", "sample_id")
        outputs = replay.outputs(new)
        for sample, row in zip(new["sample_id"].tolist(), outputs.detach(), strict=True):
            offered.setdefault(sample, []).append(row)
        loss = F.cross_entropy(outputs, labels(new))
        if not has_exemplars(pair):
            return loss
        old = rows_of(pair, exemplars, "image", "logits", "sample_id")
        for sample, stored in zip(old["sample_id"].tolist(), torch.from_numpy(old["logits"]), strict=True):
            known = stored[~stored.isnan()]
            compared.append(len(known))
            is_last = [
                len(row) == len(known) and torch.allclose(row.float(), known, rtol=0, atol=1e-5)
                for row in offered[sample][-2:]
            ]
            assert any(is_last)
            is_refreshed.append(is_last[1:] == [True])
        return loss + 0.7 * distance(replay.outputs(old), torch.from_numpy(old["logits"]))

    replay.run_loss(of_batch)
    assert set(compared) == {2, 4}
    assert any(is_refreshed)


def test_lwf_keeps_to_the_softened_outputs_of_the_network_before():
    replay = replay_of("lwf")
    teacher: list[nn.Module] = []

    def of_batch(pair: Pair) -> Tensor:
        new = rows_of(pair, new_rows, "image", "label")
        outputs = replay.outputs(new)
        loss = F.cross_entropy(outputs, labels(new))
        if not teacher:
            return loss
        target = (replay.outputs(new, teacher[0]) / TEMPERATURE).softmax(1).detach()
        return loss - DISTILLED * (target * (outputs[:, :2] / TEMPERATURE).log_softmax(1)).sum(1).mean()

    replay.run_loss(of_batch, end_task=lambda: teacher.append(copy.deepcopy(replay.network)))
    assert len(teacher) == 2


def test_lp_ft_trains_the_head_alone_and_then_everything_at_a_smaller_rate():
    replay = replay_of("lp_ft")
    names = [name for name, _ in replay.network.named_parameters()]
    steps_of_a_phase = len(replay.steps) // 4  # two tasks of two phases of one epoch

    def step(pairs: list[Pair]) -> list[Tensor]:
        in_probe = (pairs[0][0]["step"] - 1) // steps_of_a_phase % 2 == 0
        gradient = replay.gradient(replay.loss(pairs, replay.mean_loss))
        if not in_probe:
            return [0.2 * g for g in gradient]
        return [g if name.startswith("head") else 0 * g for name, g in zip(names, gradient, strict=True)]

    replay.check(replay.run(step))


@pytest.mark.parametrize("name", CASES)
def test_ranks_have_equal_weights_and_a_resumed_run_ends_bit_identically(name):
    left, right = (result[name] for result in results())
    assert left["digests"] == right["digests"]
    for result in (left, right):
        assert result["again"] == result["first"]
