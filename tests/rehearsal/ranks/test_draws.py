"""draws=D: D draws per step, each unbiased, independent of the others, and the same on every engine and exchange."""

from __future__ import annotations

import pytest
import torch
from ranks import run_ranks
from rehearsal.ranks.checks import SMALLEST_P, independence_p, uniformity_p
from rehearsal.ranks.streams import ids_of_rank, nothing, num_wrong, records

from drb import Rehearsal
from drb.rehearsal.build_parts import PartsFactory

R, D = 5, 3
HELD = [list(range(20)), list(range(20, 44))]


class TwoNodes(Rehearsal):
    """Every rank believes that it is on a machine of its own, or half of them on one."""

    class _TwoNodes(PartsFactory):
        def node(self) -> str:
            return f"node {torch.distributed.get_rank() // 2}"

    _factory = _TwoNodes()


def split(values, draws):
    return [part.tolist() for part in torch.as_tensor(values).chunk(draws)] if len(values) else []


def draw_rounds(rank, world_size, cases):
    """For each case, this rank's draws in every step, and how many rows were wrong."""
    results = {}
    for name, (kind, held, rounds, options) in cases.items():
        seen, wrong = [], 0
        settings = {"seed": 11, "batch_size": 40, "verbose": False, "draws": D, **options}
        with kind(capacity=40, exemplars=R, **settings) as rehearsal:
            for t in range(rounds):
                batch = rehearsal.extend(records(held[rank]) if t == 0 else nothing())
                wrong += num_wrong(batch)
                seen.append(split(batch["sample_id"][batch["rehearsed"]], settings["draws"]))
        results[name] = (seen, wrong)
    return results


AHEAD = {"depth": 2, "interval": 3}
CASES = {
    "inline": (Rehearsal, HELD, 600, {"asynchronous": False, "exchange": "collective"}),
    "async": (Rehearsal, HELD, 600, {"asynchronous": True, "exchange": "shared"}),
    "one draw": (Rehearsal, HELD, 600, {"draws": 1}),
    "ahead, inline": (
        Rehearsal,
        HELD,
        60,
        {"asynchronous": False, "exchange": "collective", **AHEAD},
    ),
    "ahead, async": (Rehearsal, HELD, 60, {"asynchronous": True, "exchange": "shared", **AHEAD}),
    "few": (Rehearsal, [[7], [8, 9]], 6, {}),
    "balanced": (Rehearsal, HELD, 30, {"proportions": "balanced"}),
}


def test_draws_are_unbiased_and_independent_of_each_other():
    per_rank = run_ranks(draw_rounds, 2, CASES, timeout=60)
    assert all(wrong == 0 for results in per_rank for _, wrong in results.values())
    seen = [{name: steps for name, (steps, _) in results.items()} for results in per_rank]
    for rank in range(2):
        assert seen[rank]["inline"] == seen[rank]["async"]
        assert seen[rank]["ahead, inline"] == seen[rank]["ahead, async"]
        assert [step[:1] for step in seen[rank]["inline"]] == seen[rank]["one draw"]
        assert all(map(len, seen[rank]["ahead, inline"][9:]))
        assert [sorted(map(sorted, step)) for step in seen[rank]["few"][2:]] == [[[7, 8, 9]] * D] * 4
        assert all(len({i % 5 for i in draw}) == 5 for step in seen[rank]["balanced"][2:] for draw in step)
    steps = [[step for step in results["inline"] if step] for results in seen]
    draws = [[step[d] for step in steps[rank]] for rank in range(2) for d in range(D)]
    assert all(len(set(draw)) == R for series in draws for draw in series)
    union = [i for ids in HELD for i in ids]
    for series in draws:
        assert uniformity_p(series, union) > SMALLEST_P
    for a in range(len(draws)):
        for b in range(a):
            assert independence_p(draws[a], draws[b], len(union)) > SMALLEST_P


def over_exchanges(rank, world_size):
    held = [list(ids_of_rank(r, world_size, 12)) for r in range(world_size)]
    cases = {
        "collective": (Rehearsal, held, 12, {"exchange": "collective"}),
        "shared": (Rehearsal, held, 12, {"exchange": "shared"}),
        "hierarchical": (TwoNodes, held, 12, {"exchange": "hierarchical"}),
    }
    return draw_rounds(rank, world_size, cases)


def test_every_exchange_fetches_the_same_draws():
    for results in run_ranks(over_exchanges, 4, timeout=60):
        assert results["collective"] == results["shared"] == results["hierarchical"]
        assert results["shared"][1] == 0


def test_apart_from_the_minibatch_the_draws_come_in_order():
    with Rehearsal(capacity=40, exemplars=R, draws=D, asynchronous=False, verbose=False) as together:
        joined = [together.extend(records(range(40)) if t == 0 else nothing()) for t in range(4)][-1]
        assert "3 draws of 5 exemplars per rank and step" in together.describe()
    with Rehearsal(capacity=40, exemplars=R, draws=D, asynchronous=False, verbose=False) as apart:
        exemplars = [apart.step(records(range(40)) if t == 0 else nothing()) for t in range(4)][-1]
        assert exemplars.draws == D
        assert len(exemplars) == D * R
        assert torch.equal(exemplars.sample_id, joined["sample_id"])
        assert torch.equal(exemplars.fields["image"], joined["image"])
        assert exemplars.weight.tolist() == [8.0] * (D * R)


@pytest.mark.parametrize("draws", [D, 2])
def test_a_state_goes_on_and_one_of_other_draws_fetches_anew(draws):
    options = {"capacity": 40, "exemplars": R, "asynchronous": False, "verbose": False}
    minibatches = [records(range(8 * t, 8 * t + 8)) for t in range(8)]
    with Rehearsal(**options, draws=draws) as whole:
        expected = [whole.extend(minibatch)["sample_id"].tolist() for minibatch in minibatches]
    with Rehearsal(**options, draws=D) as first:
        for minibatch in minibatches[:4]:
            first.extend(minibatch)
        state = first.state_dict()
    with Rehearsal(**options, draws=draws) as second:
        second.load_state_dict(state)
        got = [second.extend(minibatch)["sample_id"].tolist() for minibatch in minibatches[4:]]
    assert got[1:] == expected[5:]
    assert len(got[0]) == 8 + draws * R
    if draws == D:
        assert got == expected[4:]


def test_how_many_draws_there_may_be():
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        Rehearsal(10, 2, draws=0)
    with pytest.raises(ValueError, match="finds the size of one draw: draws must be 1, got 2"):
        Rehearsal(10, "auto", draws=2)
