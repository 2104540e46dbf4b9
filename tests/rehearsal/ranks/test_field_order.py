"""The order in which a rank lists its fields means nothing: in minibatches, `spec=`, late fields and saved states."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from mpiexec import missing, run_mpi
from ranks import run_ranks

from drb import Field, OwnerSampler, Rehearsal

FIELDS = {"a": (torch.int32, ()), "image": (torch.uint8, (13,)), "label": (torch.int64, ()), "x": (torch.float32, ())}
LATE = {"logits": Field(torch.float32, (3,), late=True), "b": Field(torch.float64, (), late=True)}
SAMPLES = 96


def sample(ids):
    """Every field follows from the id."""
    image = (ids[:, None] * 7 + torch.arange(13)) % 251
    return {"a": (ids * 3).int(), "image": image.to(torch.uint8), "label": ids % 7, "x": ids.float()}


def late_of(ids):
    return {"logits": ids[:, None] * torch.tensor([1.0, 0.5, 2.0]), "b": ids.double() / 3}


def in_order_of(rank, fields):
    """The same fields: rank 0's as they are, rank 1's reversed, rank 2's rotated."""
    names = list(fields)
    names = [names, names[::-1], names[2:] + names[:2]][rank % 3]
    return {name: fields[name] for name in names}


def num_torn(fields, ids):
    """Rows of which some field is not the one that follows from the id."""
    expected = {**sample(ids), **late_of(ids)}
    wrong = [(values != expected[name]).reshape(len(ids), -1).any(1) for name, values in fields.items()]
    return int(torch.stack(wrong).any(0).sum())


def train(rank, world_size, exchange, late, state=None, owner_of=None):
    """Torn rows among all that were rehearsed, how many those were, and the state."""
    spec = in_order_of(rank, {**FIELDS, **LATE}) if late else None
    own = torch.tensor(list(OwnerSampler(range(SAMPLES), seed=1, rank=rank, world_size=world_size, drop_last=True)))
    torn = seen = 0
    with Rehearsal(30, 6, spec=spec, exchange=exchange, batch_size=8, verbose=False) as rehearsal:
        if state is not None:
            rehearsal.load_state_dict(state, owner_of)
        for t in range(16):
            ids = own[torch.arange(8 * t, 8 * t + 8) % len(own)]
            exemplars = rehearsal.step(in_order_of(rank, {**sample(ids), "sample_id": ids}))
            if late:
                rehearsal.attach(**in_order_of(rank, late_of(ids)))
            if exemplars is not None:
                torn += num_torn(exemplars.fields, exemplars.sample_id)
                seen += len(exemplars)
        return torn, seen, copy.deepcopy(rehearsal.state_dict())


def train_all(rank, world_size):
    with mock.patch.object(Rehearsal._factory, "node", return_value=f"node {rank // 2}"):
        hierarchical = [train(rank, world_size, "hierarchical", late) for late in (False, True)]
    return hierarchical + [train(rank, world_size, x, late) for x in ("shared", "collective") for late in (False, True)]


def go_on(rank, world_size, states, sampler):
    """As many ranks, each with what another one listed in its order; then another number."""
    owner_of = None if sampler is None else sampler(rank, world_size).owner_of
    return train(rank, world_size, "auto", True, states, owner_of)


def sampler_of(rank, world_size):
    return OwnerSampler(range(SAMPLES), seed=1, rank=rank, world_size=world_size)


def assert_whole(results):
    for torn, seen, _ in results:
        assert torn == 0
        assert seen >= 6 * 14


def test_rows_are_whole_whatever_order_each_rank_lists_its_fields_in_and_after_a_reshard():
    results = run_ranks(train_all, 3)
    for case in zip(*results, strict=True):
        assert_whole(case)
    states = [per_rank[-1][2] for per_rank in results]
    assert len({state["spec"] for state in states}) == 1
    assert_whole(run_ranks(go_on, 2, states, sampler_of))


@pytest.mark.skipif(bool(missing()), reason=missing() or "MPI is there")
def test_rows_are_whole_in_windows_of_mpi(tmp_path):
    (results,) = run_mpi(2, (train, ("rma", True)), tmp_path=tmp_path)
    assert_whole(results)


def test_a_state_of_the_format_whose_rows_followed_the_given_order_is_refused():
    torn, _, state = train(0, 1, "auto", False)
    assert torn == 0
    with (
        Rehearsal(30, 6, batch_size=8, verbose=False) as rehearsal,
        pytest.raises(ValueError, match="a rehearsal state of format 2, this version reads format 4"),
    ):
        rehearsal.load_state_dict({**state, "format": 2})
