"""EWC, online EWC, SI, MAS, RWalk and SCP on two ranks: as by hand in one process, equal on ranks, resumed exactly."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from ranks import run_ranks
from training.method.runs import ODD_STEP, case
from training.parts import make_network
from training.terms import references
from training.terms.replay import Reference, replay, values

from drb.training.strategies import ExperienceReplay, Finetune
from drb.training.terms import TERMS

OPTIONS: dict[str, dict[str, Any]] = {
    "ewc": {"strength": 20.0},
    "true_ewc": {"strength": 20.0, "fisher": "true"},
    "online_ewc": {"strength": 20.0, "gamma": 0.7},
    "si": {"strength": 2.0, "damping": 0.05},
    "mas": {"strength": 0.5, "gamma": 0.6},
    "rwalk": {"strength": 0.5, "alpha": 0.8, "interval": 3, "damping": 1e-6},
    "scp": {"strength": 100.0, "directions": 5, "seed": 3},  # some weights go all the way back in each step
}
STREAMS = {"growing head": ("class_incremental", 2), "three guises": ("domain_incremental", 3)}
FULL = [(name, "growing head") for name in ("true_ewc", "online_ewc", "mas", "scp")]
SAMPLE = [(name, stream) for name in OPTIONS for stream in STREAMS if (name, stream) not in FULL]


def parts_of(name: str) -> Any:
    return Finetune(), [TERMS.build(name.removeprefix("true_"), OPTIONS[name])]


def rehearsed(name: str) -> Any:
    return ExperienceReplay(), [TERMS.build(name.removeprefix("true_"), OPTIONS[name])]


def reference_of(name: str, num_outputs: int) -> Reference:
    options = OPTIONS[name]
    match name:
        case "ewc" | "true_ewc":
            return references.Ewc(**options)
        case "online_ewc":
            return references.OnlineEwc(**options)
        case "si":
            return references.Si(**options, start=[w.double() for w in values(make_network(num_outputs, 0))])
        case "mas":
            return references.Mas(**options)
        case "rwalk":
            return references.RWalk(**options)
    return references.Scp(**options)


@functools.cache
def results() -> list[dict[str, Any]]:
    """By rank, by name and stream; with `er` to be resumed, too."""
    together = {f"er + {name}": (functools.partial(rehearsed, name), {}) for name in OPTIONS}
    return run_ranks(case, 2, {**cases_of(SAMPLE), **together}, timeout=200)


@functools.cache
def other_results() -> list[dict[str, Any]]:
    return run_ranks(case, 2, cases_of(FULL), timeout=200)


def cases_of(names: list[tuple[str, str]]) -> dict[str, Any]:
    cases = {}
    for name, stream in names:
        scenario, num_tasks = STREAMS[stream]
        cases[f"{name}, {stream}"] = (functools.partial(parts_of, name), {"scenario": scenario, "num_tasks": num_tasks})
    return cases


@pytest.mark.parametrize(("name", "stream"), [*SAMPLE, *(pytest.param(*each, marks=pytest.mark.full) for each in FULL)])
def test_a_penalty_on_two_ranks_is_that_of_one_process_by_hand(name, stream):
    scenario, num_tasks = STREAMS[stream]
    of_ranks = results() if (name, stream) in SAMPLE else other_results()
    ranks = [result[f"{name}, {stream}"] for result in of_ranks]
    reference = reference_of(name, 2 if scenario == "class_incremental" else 4)
    network = replay([rank["batches"] for rank in ranks], scenario, num_tasks, reference)
    assert reference.was_limited or name != "scp"
    for rank in ranks:
        for (parameter, _), value in zip(network.named_parameters(), values(network), strict=True):
            np.testing.assert_allclose(rank["weights"][parameter], value.numpy(), rtol=0, atol=1e-5)
        vectors = rank["vectors"][name.removeprefix("true_")]
        expected = reference.importance_of(values(network))
        for (parameter, _), value in zip(network.named_parameters(), expected, strict=True):
            found = vectors["importance"][parameter]
            np.testing.assert_allclose(found, value.numpy(), rtol=2e-3, atol=1e-5 * float(value.abs().max()))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_penalty_holds_the_weights(name):
    """Without it they end elsewhere, so that the comparison by hand compares something."""
    plain = reference_of(name, 4)
    plain.strength = 0.0
    ranks = [result[f"{name}, three guises"] for result in results()]
    network = replay([rank["batches"] for rank in ranks], "domain_incremental", 3, plain)
    differences = [
        np.abs(ranks[0]["weights"][parameter] - value.numpy()).max()
        for (parameter, _), value in zip(network.named_parameters(), values(network), strict=True)
    ]
    assert max(differences) > 1e-3


@pytest.mark.parametrize("name", OPTIONS)
def test_ranks_agree_and_resume_exactly_with_rehearsal(name):
    left, right = (result[f"er + {name}"] for result in results())
    assert left["digests"] == right["digests"]
    assert left["first"]["learnt"] == right["first"]["learnt"]
    for rank in (left, right):
        assert rank["again"] == rank["first"]
        assert rank["digests_again"] == rank["digests"][ODD_STEP:]
