"""`forget` on real ranks: what is named is gone from every rank's memory, everything else is as it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ranks import collect_ranks, run_cases, run_ranks
from rehearsal.ranks.streams import ids_of_rank, num_wrong, records

from drb import Rehearsal
from drb.buffer.record import SAMPLE_ID, Field

STEPS = 14


def minibatch(rank, world_size, step, size=6):
    return records(ids_of_rank(rank, world_size, (step + 1) * size)[step * size :])


def make(**options):
    given = {"capacity": 30, "exemplars": 7, "seed": 1, "batch_size": 6, "asynchronous": True, "verbose": False}
    return Rehearsal(**(given | options))


def gather(value, world_size):
    values = [None] * world_size
    if world_size == 1:
        return [value]
    torch.distributed.all_gather_object(values, value)
    return values


def forget_some(rank, world_size, options):
    """Forget ids that this rank and others hold, in the middle; what was seen after it, to compare between engines."""
    seen = []
    with make(**options) as rehearsal:
        for step in range(STEPS):
            rehearsal.extend(minibatch(rank, world_size, step))
        stored = np.concatenate(gather(rehearsal.sample_ids(), world_size))
        named = stored[rank :: 3 * world_size]  # each rank names other ranks' samples, too
        gone = np.unique(np.concatenate(gather(named, world_size)))
        removed = rehearsal.forget([*named.tolist(), 10_000 + rank])
        assert removed == len(gone)
        assert not np.isin(rehearsal.sample_ids(), gone).any()
        left = set(np.concatenate(gather(rehearsal.sample_ids(), world_size)).tolist())
        assert left == set(stored.tolist()) - set(gone.tolist())
        for step in range(STEPS, 2 * STEPS):
            again = step % 2 == 0  # forgotten samples are offered once more
            batch = rehearsal.extend(minibatch(rank, world_size, step - STEPS if again else step))
            assert num_wrong(batch) == 0
            ids = batch["sample_id"][batch["rehearsed"]]
            assert len(set(ids.tolist())) == 7
            assert not np.isin(ids.numpy(), gone).any()
            if step == STEPS:
                assert set(ids.tolist()) <= left
            seen += ids.tolist()
        assert not np.isin(rehearsal.sample_ids(), gone).any()
        assert np.isin([*gone, 10_000], rehearsal.state_dict()["denied"]).all()
        return seen, sorted(rehearsal.sample_ids().tolist()), rehearsal.stats()["rounds"]


POLICIES = [
    ("reservoir", "uniform"),
    ("class_balanced", "balanced"),
    ("random_replacement", "stream"),
    ("fifo", "balanced"),
]


@pytest.mark.parametrize(
    ("world_size", "admission", "proportions"),
    [  # each policy on one rank and, in turn, on two or three
        pytest.param(world_size, *policy, marks=() if world_size in (1, 2 + n % 2) else pytest.mark.full)
        for world_size in (1, 2, 3)
        for n, policy in enumerate(POLICIES)
    ],
)
def test_forgotten_samples_are_gone_with_every_engine_and_exchange(world_size, admission, proportions):
    common = {"admission": admission, "proportions": proportions, "uneven": "stop" if world_size == 3 else "error"}
    if admission == "random_replacement":
        common["candidates"] = 4
    variants = [(False, "auto"), (True, "auto"), (True, "collective")][: 2 if world_size == 1 else 3]
    cases = {str(v): (common | dict(zip(("asynchronous", "exchange"), v, strict=True)),) for v in variants}
    results = list(run_cases(forget_some, world_size, cases, timeout=90).values())
    assert all(result == results[0] for result in results[1:])
    assert all(rounds == 2 * STEPS for *_, rounds in results[0])


def forget_where(rank, world_size):
    with make(capacity=200) as rehearsal:
        for step in range(STEPS):
            rehearsal.extend(minibatch(rank, world_size, step))
        counts = rehearsal.counts()
        stored = sum(gather(len(rehearsal.sample_ids()), world_size))
        on_rank_1 = {"label": 3} if rank == 1 else {"label": 77}
        assert rehearsal.forget(where=on_rank_1) == gather(counts.get(3, 0), world_size)[1]
        assert rehearsal.counts().get(3, 0) == (0 if rank == 1 else counts[3])
        assert (
            rehearsal.forget(where={"label": [1, 3]})
            == sum(gather(counts[1], world_size)) + gather(counts[3], world_size)[0]
        )
        shown = []

        def small(fields):
            shown.append(fields)
            return (fields["image"].flatten(1)[:, 0] < 100) & (fields["sample_id"] > 20)

        assert rehearsal.forget(where=small) > 0
        assert not any(values.any() for fields in shown for values in fields.values())
        assert set(rehearsal.counts()) == {0, 2, 4}
        assert rehearsal.forget(where={"stratum": [0, 2, 4]}) > 0
        assert sum(gather(len(rehearsal.sample_ids()), world_size)) == 0 < stored
        batch = rehearsal.extend(minibatch(rank, world_size, STEPS))
        assert not batch["rehearsed"].any()
        return rehearsal.state_dict()["denied"].tolist()


def test_a_condition_names_samples():
    first, second = run_ranks(forget_where, 2, timeout=60)
    assert first == second == list(range(2 * 6 * STEPS))


def refused(rank, world_size):
    """Selections that one rank cannot make: nobody removes anything, and the rehearsal goes on."""
    sample = records([0])
    spec = {k: Field(v.dtype, tuple(v.shape[1:])) for k, v in sample.items() if k != "sample_id"}
    messages = []
    with make(spec={**spec, "logits": Field(torch.float32, (3,), late=True)}) as rehearsal:
        for step in range(STEPS):
            rehearsal.step(minibatch(rank, world_size, step))
            before = rehearsal.sample_ids()
            if step == 9:
                with pytest.raises(ValueError, match=r"late fields: call forget\(\) after attach"):
                    rehearsal.forget([1, 2])
            rehearsal.attach(logits=torch.zeros(6, 3))
            for selection in (
                {"sample_ids": [0.5] if rank == 1 else [1]},
                {"where": {}},
                {"where": {"colour": 1}},
                {"where": {"image": 1}},
                {"where": {"label": "cat"}},
                {"where": lambda fields: fields["label"] if rank == 1 else fields["label"] > 0},
                {"where": lambda fields: fields["label"] // 0 > 0 if rank else fields["colour"]},
            ) * (step == 9):
                with pytest.raises((ValueError, KeyError, RuntimeError)) as error:
                    rehearsal.forget(**selection)
                messages.append(str(error.value))
            assert rehearsal.sample_ids().tolist() == before.tolist()
    with pytest.raises(ValueError, match=r"forget before close\(\)"):
        rehearsal.forget([1])
    return messages


def test_a_selection_that_fails_on_one_rank_is_refused_on_all():
    first, second = run_ranks(refused, 2, timeout=60)
    assert first[0] == "nothing was forgotten, because rank 1 failed to select: " + f"ValueError: {second[0]}"
    assert second[0] == "sample ids must be integers, got float64"
    assert second[1:5] == first[1:5]
    assert "it would match every exemplar" in first[1]
    assert "names the field 'colour', which records lack; they have ['image', 'label', 'logits'" in first[2]
    assert "has [1, 2, 24] of them per sample" in first[3]
    assert "with numbers, got 'cat'" in first[4]
    assert second[5].startswith("where() must return one bool per sample, [34], got int64")  # 4 are staged
    assert first[6] == "'colour'"


def early(rank, world_size):
    """Before the first minibatch: of a new rehearsal, and of one that was resumed."""
    with make(capacity=100) as rehearsal:
        assert rehearsal.forget([3] if rank == 0 else [4]) == 0
        for step in range(4):
            rehearsal.extend(minibatch(rank, world_size, step))
        assert not np.isin(rehearsal.sample_ids(), [3, 4]).any()
        assert len(rehearsal.sample_ids()) == 23
        state = rehearsal.state_dict()
        rehearsal.extend(minibatch(rank, world_size, 4))
    with make(capacity=100) as resumed:
        resumed.load_state_dict(state)
        assert resumed.forget([5, 6]) == 2
        assert not np.isin(resumed.sample_ids(), [5, 6]).any()
        assert np.isin([3, 4, 5, 6], resumed.state_dict()["denied"]).all()
        batch = resumed.extend(minibatch(rank, world_size, 4))
        assert int(batch["rehearsed"].sum()) == 7
        assert not np.isin(batch["sample_id"][6:].numpy(), [3, 4, 5, 6]).any()
        resumed.extend(minibatch(rank, world_size, 0))
        assert not np.isin(resumed.sample_ids(), [3, 4, 5, 6]).any()
        resumed.duplicate_share()  # waits for the round in flight
        return resumed.stats()["rounds"]


def test_before_the_first_minibatch():
    assert run_ranks(early, 2, timeout=60) == [6, 6]


def after_another_ended(rank, world_size):
    with make(uneven="stop") as rehearsal:
        for step in range(8):
            if rehearsal.extend(minibatch(rank, world_size, step)) is None or (rank == 0 and step == 4):
                break
        return step


def test_ranks_that_stop_at_different_steps_are_not_disturbed():
    results, failures = collect_ranks(after_another_ended, 2, timeout=60)
    assert not failures
    assert results[0] == 4


def test_with_one_rank_rows_of_forgotten_samples_are_zero():
    with make(asynchronous=False) as rehearsal:
        for step in range(STEPS):
            rehearsal.extend(minibatch(0, 1, step))
        rehearsal.forget(rehearsal.sample_ids())
        buffer = rehearsal._running.parts.buffer
        assert buffer.size == 0
        assert not buffer.rows[:, SAMPLE_ID:].any()


def expire(rank, world_size, asynchronous):
    """max_age in rounds: no exemplar is rehearsed that is older, and every step gets as many as are left."""
    seen = []
    with make(max_age=5, refill="recent", asynchronous=asynchronous) as rehearsal:
        assert rehearsal.settings.retention
        for step in range(30):
            exemplars = rehearsal.step(minibatch(rank, world_size, step, size=2))
            if exemplars is not None:
                assert exemplars.age.max() <= 5
                assert len(exemplars.age) == min(7, 2 * world_size * min(step - 1, 5))
                seen += exemplars.sample_id.tolist()
        assert "exemplars older than 5 steps expire" in rehearsal.describe()
        assert len(rehearsal.sample_ids()) == 12  # five minibatches of two, and the staged one
    return seen


@pytest.mark.parametrize("world_size", [1, 2])
def test_exemplars_that_are_too_old_are_not_rehearsed(world_size):
    inline, asynchronous = run_cases(expire, world_size, {"inline": (False,), "async": (True,)}, timeout=60).values()
    assert inline == asynchronous
