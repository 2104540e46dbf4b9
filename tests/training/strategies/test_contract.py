"""Every method keeps the contract, alone and with the terms that go with it; methods broken on purpose do not.

Two ranks, three accumulated batches a step, a head that grows, and a rank that is without rows every fifth time.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from training.method.runs import Watched, case
from training.strategies.contract import (
    check,
    check_as_one_rank,
    check_equal_ranks,
    check_resumed,
    parts_of,
)

from drb.distributed.world import World
from drb.training.method.optimizer_step import References, Step
from drb.training.method.tasks import FinishedTask
from drb.training.strategies import STRATEGIES
from drb.training.strategies.agem import AveragedGradientEpisodicMemory
from drb.training.strategies.icarl import IncrementalClassifier
from drb.training.terms import ElasticWeightConsolidation

SAMPLE: dict[str, dict[str, Any]] = {
    "er_ace+ewc": {},
    "der+ema": {},
    "derpp+si+ema": {},
    "agem+ema": {},
    "gem+si": {},
    "icarl+ema": {},
    "mir+ewc": {},
    "lwf+si": {},
    "lp_ft+ema": {"epochs": 1},
}


@functools.cache
def results() -> list[dict[str, Any]]:
    """By rank and method."""
    return run_ranks(case, 2, {name: (parts_of(name), options) for name, options in SAMPLE.items()}, timeout=200)


@pytest.mark.parametrize("name", SAMPLE)
def test_methods_keep_the_contract(name):
    """A sample: `test_matrix` has every method."""
    check([result[name] for result in results()], parts_of(name), **SAMPLE[name])


BF16 = ("derpp", "agem", "lwf+ewc")


@functools.cache
def variations() -> list[dict[str, Any]]:
    cases = {f"{name} bf16": (parts_of(name), {"precision": "bf16"}) for name in BF16}
    for name in ("derpp", "icarl"):
        cases |= {f"{name} {how}": (parts_of(name), {"rehearsal": {"asynchronous": how}}) for how in (True, False)}
    cases["er learning"] = (parts_of("er"), {"rehearsal": {"proportions": "mix_cd"}})
    return run_ranks(case, 2, cases, timeout=100)


def test_a_run_that_draws_by_feedback_goes_on_bit_for_bit():
    results = [result["er learning"] for result in variations()]
    check_equal_ranks(results)
    check_resumed(results)


@pytest.mark.parametrize("name", BF16)
def test_methods_keep_the_contract_in_bf16(name):
    results = [result[f"{name} bf16"] for result in variations()]
    check_equal_ranks(results)
    check_resumed(results)


@pytest.mark.parametrize("name", ["derpp", "icarl"])
def test_asynchronous_rounds_train_as_inline_ones(name):
    for result in variations():
        assert result[f"{name} True"]["digests"] == result[f"{name} False"]["digests"]
        assert result[f"{name} True"]["first"] == result[f"{name} False"]["first"]


@pytest.mark.parametrize("name", ["der", "derpp", "agem", "gem"])
def test_a_buffer_that_er_filled_serves_strategies_that_keep_more(name):
    filled = Watched(0, 1, parts_of("er"))
    filled.run()
    trainer = Watched(0, 1, parts_of(name))
    trainer.load_state_dict(filled.saved)
    trainer.run()
    filled.rehearsal.close()
    trainer.rehearsal.close()
    drawn = [batch["apart"] or {n: f[batch["new"] :] for n, f in batch["fields"].items()} for batch in trainer.batches]
    kept = np.concatenate([fields["logits" if "der" in name else "offered_in"] for fields in drawn])
    assert np.isnan(kept).all(axis=1).any()  # stored by er
    assert not np.isnan(kept).all(axis=1).all()
    assert all(bool(torch.isfinite(value).all()) for value in trainer.network.state_dict().values())


# -- broken on purpose


class SquaredOfMeans(ElasticWeightConsolidation):
    """Squares each rank's mean gradient, as one does who squares what a backward pass has left behind."""

    def end_task(self, task: FinishedTask) -> None:
        task.world = World()
        own = task.mean_of_gradients(task.log_likelihood, each=lambda gradient: gradient).map(torch.square)
        if dist.is_initialized():
            for value in own.tensors.values():
                dist.all_reduce(value)
        self.importance += own / (dist.get_world_size() if dist.is_initialized() else 1)
        self.anchor = task.weights()


class ReferenceOfOneRank(AveragedGradientEpisodicMemory):
    """Holds the gradient of its own exemplars against the step."""

    def project(self, step: Step, gradient: Any) -> None:
        own: References = step.partial
        step.references = [own.sums[group] / own.rows[group] for group in own.sums]
        super().project(step, gradient)


class HerdingOfOneRank(IncrementalClassifier):
    """Chooses among its own samples as many as are its share."""

    def end_task(self, task: FinishedTask) -> None:
        task.__class__ = TaskOfOneRank
        super().end_task(task)


class TaskOfOneRank(FinishedTask):
    @property
    def capacity(self) -> int:
        return super().capacity // (dist.get_world_size() if dist.is_initialized() else 1)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        return rows

    def of_first_rank(self, values: torch.Tensor) -> torch.Tensor:
        return values


def squared_of_means():
    return STRATEGIES.build("finetune"), [SquaredOfMeans(strength=5.0)]


def reference_of_one_rank():
    return ReferenceOfOneRank(), []


def herding_of_one_rank():
    return HerdingOfOneRank(), []


BROKEN = {
    "squares of means": (squared_of_means, check_as_one_rank, "Not equal to tolerance"),
    "a reference of one rank": (reference_of_one_rank, check_equal_ranks, "weights differ between ranks"),
    "herding of one rank": (herding_of_one_rank, check_as_one_rank, "other exemplars were chosen"),
}


@functools.cache
def broken() -> list[dict[str, Any]]:
    return run_ranks(case, 2, {name: (parts, {}) for name, (parts, _, _) in BROKEN.items()}, timeout=60)


@pytest.mark.parametrize("name", BROKEN)
def test_a_method_that_is_broken_on_purpose_does_not(name):
    parts, fails, message = BROKEN[name]
    results = [result[name] for result in broken()]
    with pytest.raises(AssertionError, match=message):
        fails(results) if fails is check_equal_ranks else fails(results, parts)
