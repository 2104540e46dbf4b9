"""Guarantee 3: asynchronous equals inline, bit for bit, whatever the timing; and every exchange equals the others."""

from __future__ import annotations

import hashlib
import random
import time

import numpy as np
import pytest
import torch
from ranks import run_cases, run_ranks
from rehearsal.ranks.streams import ids_of_rank, num_wrong, records

from drb import Rehearsal
from drb.buffer.record import Field
from drb.rehearsal.build_parts import PartsFactory


def train(rank, world_size, asynchronous, exchange, admission, proportions, jitter, depth=1, interval=1):
    """A loop with late fields; a hash of everything it saw, and the final buffer."""
    seen, wrong, pauses = hashlib.sha256(), 0, random.Random(f"{rank}{asynchronous}")
    sample = records([0])
    spec = {k: Field(v.dtype, tuple(v.shape[1:])) for k, v in sample.items() if k != "sample_id"}
    spec["logits"] = Field(torch.float32, (3,), late=True)
    spec["offered"] = Field(torch.int64, (), late=True, refreshed=True)  # the step of the last offer
    ids = ids_of_rank(rank, world_size, 300)
    with Rehearsal(
        capacity=40,
        exemplars=7,
        seed=3,
        spec=spec,
        asynchronous=asynchronous,
        exchange=exchange,
        admission=admission,
        proportions=proportions,
        candidates=4 if admission == "random_replacement" else None,
        batch_size=12,
        depth=depth,
        interval=interval,
        verbose=False,
    ) as rehearsal:
        memory = records(ids[:12].copy())  # the caller reuses its memory, as a loader may
        for t in range(42):
            rows = ids[places_at(t)]  # batches of different sizes, ids repeat
            fresh = records(rows)
            minibatch = {k: memory[k][: len(rows)].copy_(v) for k, v in fresh.items()}
            exemplars = rehearsal.step(minibatch)
            if exemplars is not None:
                batch = {**exemplars.fields, "sample_id": exemplars.sample_id}
                wrong += num_wrong(batch)
                wrong += int((exemplars.fields["logits"] != late(exemplars.sample_id)).any(1).sum())
                drawn = (t // interval - depth) * interval  # the step in which the round began: it sees all before
                found = zip(exemplars.sample_id.tolist(), exemplars.fields["offered"].tolist(), strict=True)
                wrong += sum(offered != last_offer(sample // world_size, drawn) for sample, offered in found)
                for value in (exemplars.sample_id, exemplars.weight, exemplars.age, exemplars.stratum):
                    seen.update(np.ascontiguousarray(value.numpy()).tobytes())
                seen.update(exemplars.handle.rank.tobytes() + exemplars.handle.slot.tobytes())
            rehearsal.attach(logits=late(minibatch["sample_id"]), offered=torch.full((len(rows),), t))
            for value in memory.values():
                value.fill_(0)
            if jitter:
                time.sleep(pauses.random() * 0.004)
        stored = sorted(rehearsal.sample_ids().tolist())
    return seen.hexdigest(), stored, wrong


def train_on_two_nodes(rank, world_size, *arguments):
    """Ranks 0 and 1 believe that they are on another machine than the rest."""

    class TwoNodes(PartsFactory):
        def node(self):
            return f"node {rank // 2}"

    Rehearsal._factory = TwoNodes()
    return train(rank, world_size, *arguments)


def places_at(t):
    return slice((t * 10) % 290, (t * 10) % 290 + (10 if t % 7 else 4))


def last_offer(place, before):
    """The last step before `before` whose minibatch has the sample at this place of its rank's list."""
    return next(t for t in range(before - 1, -1, -1) if places_at(t).start <= place < places_at(t).stop)


def late(ids):
    return ids[:, None] * torch.tensor([1.0, 0.5, 2.0])


CASES = [
    ("reservoir", "uniform"),
    ("class_balanced", "balanced"),
    ("random_replacement", "stream"),
    ("fifo", "uniform"),
]


SAMPLED = {1: CASES[2:], 2: CASES[::2], 3: CASES[1::2], 4: CASES[1:2]}  # each case with two numbers of ranks


@pytest.mark.parametrize(
    ("world_size", "admission", "proportions"),
    [
        pytest.param(n, *case, marks=() if case in SAMPLED[n] else pytest.mark.full, id=f"{'-'.join(case)}-{n}")
        for n in SAMPLED
        for case in CASES
    ],
)
def test_engines_and_exchanges_agree_bit_for_bit(world_size, admission, proportions):
    exchanges = ["auto"] if world_size == 1 else ["collective", "shared"]
    variants = [(False, exchanges[0], False)] + [(True, x, True) for x in exchanges]
    cases = {
        f"{exchange}, asynchronous={asynchronous}": (asynchronous, exchange, admission, proportions, jitter)
        for asynchronous, exchange, jitter in variants
    }
    results = list(run_cases(train, world_size, cases).values())
    if world_size > 2:  # with 4 ranks two rails, with 3 none
        results.append(run_ranks(train_on_two_nodes, world_size, True, "hierarchical", admission, proportions, True))
    assert all(wrong == 0 for result in results for *_, wrong in result)
    for other in results[1:]:
        assert other == results[0]


@pytest.mark.parametrize(("world_size", "depth", "interval"), [(2, 2, 1), (3, 1, 3), (4, 2, 3)])
def test_engines_and_exchanges_agree_with_rounds_further_ahead(world_size, depth, interval):
    rounds = (*CASES[1], True, depth, interval)
    cases = {
        "inline": (False, "collective", *CASES[1], False, depth, interval),
        "collective": (True, "collective", *rounds),
        "shared": (True, "shared", *rounds),
    }
    results = list(run_cases(train, world_size, cases).values())
    if world_size > 2:
        results.append(run_ranks(train_on_two_nodes, world_size, True, "hierarchical", *rounds))
    assert all(wrong == 0 for result in results for *_, wrong in result)
    for other in results[1:]:
        assert other == results[0]
