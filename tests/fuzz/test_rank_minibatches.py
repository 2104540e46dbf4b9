"""Minibatches that differ between ranks in all that must not matter: order, strides, devices' copies, sizes; and in
what must: then the rank that has it is refused, the others wait, and nothing that is stored is torn.
"""

from __future__ import annotations

import random

import pytest
import torch
from ranks import run_ranks
from rehearsal.ranks.streams import ids_of_rank, num_wrong, records

from drb import Rehearsal

STEPS, ROWS = 300, 6


def laid_out(value, rng):
    """The same values, laid out in memory in another way."""
    kind = rng.randrange(5)
    if kind == 0:
        return value.clone()
    if kind == 1:
        return torch.empty_strided(value.shape, [3 * s for s in value.stride()], dtype=value.dtype).copy_(value)
    if kind == 2:
        return torch.cat([value, value])[len(value) :]
    if kind == 3 and value.dim() == 4:
        return value.to(memory_format=torch.channels_last)
    return value.flip(0).contiguous().flip(0)


def broken(batch, rng):
    """A minibatch that cannot be right."""
    bad, key = dict(batch), rng.choice(list(batch))
    kind = rng.randrange(6)
    if kind == 0:
        del bad[key]
    elif kind == 1:
        bad[f"{key}2"] = batch[key]
    elif kind == 2:
        bad[key] = batch[key].to(torch.float64)
    elif kind == 3:
        bad[key] = batch[key][..., None].expand(*batch[key].shape, 2)
    elif kind == 4:
        bad[key] = batch[key].to("meta")
    else:
        bad[key] = batch[key][:-1] if key != "sample_id" else torch.cat([batch[key], batch[key]])
    return bad


def fuzz(rank, world_size, exchange):
    """(refused, torn rows, exemplars seen); the ranks differ in everything but their steps."""
    rng, refused, torn, seen = random.Random(f"{rank} {exchange}"), 0, 0, 0
    ids = torch.from_numpy(ids_of_rank(rank, world_size, 400))
    with Rehearsal(24, 5, exchange=exchange, batch_size=ROWS, timeout_s=20.0, verbose=False) as rehearsal:
        for step in range(STEPS):
            count = rng.choice([ROWS, ROWS, 1, 3]) if step else ROWS
            batch = records(ids[torch.randint(0, 394, ()).item() :][:count])
            names = rng.sample(list(batch), 3)
            batch = {name: laid_out(batch[name], rng) for name in names}
            for _ in range(rng.choice([0, 0, 1, 2]) if step else 0):
                with pytest.raises(ValueError) as raised:
                    rehearsal.extend(broken(batch, rng))
                assert "\n" not in str(raised.value)
                refused += 1
            extended = rehearsal.extend(batch)
            torn += num_wrong(extended)
            seen += int(extended["rehearsed"].sum())
    return refused, torn, seen


def all_exchanges(rank, world_size):
    return [fuzz(rank, world_size, exchange) for exchange in ("shared", "collective")]


@pytest.mark.timeout(120)
def test_ranks_that_differ_in_what_does_not_matter_see_whole_rows():
    for per_rank in run_ranks(all_exchanges, 3, timeout=100):
        for refused, torn, seen in per_rank:
            assert refused > STEPS / 3
            assert torn == 0
            assert seen > 4 * STEPS


def first_minibatches(rank, world_size, cases):
    """What rank 1 may have other in its first minibatch, and what each rank is told; None if it goes on."""
    told = []
    for change in cases:
        batch = records(ids_of_rank(rank, world_size, ROWS))
        if rank == 1 and change == "order":
            batch = dict(reversed(batch.items()))
        elif rank == 1 and change == "dtype":
            batch["label"] = batch["label"].int()
        elif rank == 1 and change == "shape":
            batch["image"] = batch["image"][..., :-1]
        elif rank == 1 and change == "missing":
            del batch["label"]
        elif rank == 1 and change == "more":
            batch["task"] = batch["label"]
        elif rank == 1 and change == "name":
            batch["Image"] = batch.pop("image")
        rehearsal = Rehearsal(24, 5, stratum=None, timeout_s=20.0, verbose=False)
        try:
            rehearsal.extend(batch)
            rehearsal.close()
            told.append(None)
        except ValueError as error:
            told.append(str(error))
    return told


def test_first_minibatches_that_differ_are_named_on_every_rank():
    cases = ["order", "dtype", "shape", "missing", "more", "name"]
    first, second = run_ranks(first_minibatches, 2, cases)
    assert first == second
    named = [None, "label", "image", "label", "task", "mage"]
    for case, name, message in zip(cases, named, first, strict=True):
        assert (message is None) if name is None else (name in message and "rank" in message), (case, message)
