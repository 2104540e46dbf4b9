"""The contract for every method, with every penalty, averages and small levers; `test_contract` has a sample.

Three accumulated batches a step, a head that grows, and a rank that is without rows every fifth time; two ranks against
one process on the same rows; resumed after an odd step, on two ranks and on one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import pytest
from ranks import run_ranks
from training.method.runs import ODD_STEP, case
from training.strategies.contract import check, check_equal_ranks, check_exchanged_once, check_resumed, parts_of

from drb.training.strategies import STRATEGIES

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]

METHODS = sorted({*STRATEGIES} - {"from_scratch"})
REHEARSING = sorted({*METHODS} - {"finetune", "lp_ft", "lwf"})
PENALTIES = ("ewc", "online_ewc", "si", "mas", "rwalk", "scp")
MATRIX = [
    *METHODS,
    *(f"{method}+ema" for method in METHODS),
    *(f"{method}+{penalty}+ema" for penalty in PENALTIES for method in ["finetune", *REHEARSING]),
    *(f"{method}+{penalty}" for penalty in ("ewc", "si") for method in ("lp_ft", "lwf")),
]
LEVERS = ("balanced_softmax", "mean_teacher")
WITH_LEVERS = [*(f"{method}+{lever}" for method in ("er", "derpp") for lever in LEVERS), "derpp+ema+logit_refresh"]


def options_of(name: str) -> dict[str, Any]:
    return {"epochs": 1} if "lp_ft" in name else {}


def trained(names: Iterable[str], world_size: int = 2, **options: Any) -> list[dict[str, Any]]:
    """By rank and method."""
    cases = {name: (parts_of(name), options_of(name) | options) for name in names}
    return run_ranks(case, world_size, cases, timeout=300)


@functools.cache
def with_terms(terms: str) -> list[dict[str, Any]]:
    return trained(name for name in MATRIX if name.partition("+")[2] == terms)


@pytest.mark.parametrize("name", MATRIX)
def test_methods_with_penalties_and_averages(name):
    results = with_terms(name.partition("+")[2])
    check([result[name] for result in results], parts_of(name), **options_of(name))


@functools.cache
def levers() -> list[dict[str, Any]]:
    return trained(WITH_LEVERS)


@pytest.mark.parametrize("name", WITH_LEVERS)
def test_methods_with_small_levers(name):
    check([result[name] for result in levers()], parts_of(name))


@functools.cache
def variation(how: str, world_size: int) -> list[dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {
        "bf16": {"precision": "bf16"},
        "one batch a step": {"accumulate": 1},
        "asynchronous": {"rehearsal": {"asynchronous": True}},
        "inline": {"rehearsal": {"asynchronous": False}},
    }
    return trained(METHODS, world_size, **options[how])


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("how", ["bf16", "one batch a step"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_on_one_rank_and_on_two(method, how, world_size):
    results = [result[method] for result in variation(how, world_size)]
    check_resumed(results)
    if world_size > 1:
        check_equal_ranks(results)
        check_exchanged_once(results)
    assert len(set(results[0]["digests"])) > 6


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("method", REHEARSING)
def test_asynchronous_rounds_train_as_inline_ones(method, world_size):
    for one, other in zip(variation("asynchronous", world_size), variation("inline", world_size), strict=True):
        assert one[method]["digests"] == other[method]["digests"]
        assert one[method]["first"] == other[method]["first"]
        assert one[method]["again"] == one[method]["first"]
        assert one[method]["digests_again"] == one[method]["digests"][ODD_STEP:]
