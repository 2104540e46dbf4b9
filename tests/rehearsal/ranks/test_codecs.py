"""Fields that are stored encoded, on real ranks: what comes back is what the codec keeps, wherever it has been."""

from __future__ import annotations

import hashlib
from itertools import chain

import numpy as np
import pytest
import torch
from ranks import run_cases, run_ranks
from rehearsal.ranks.streams import ids_of_rank, records

from drb import Rehearsal
from drb.buffer.admission.mean_matching import MeanMatching
from drb.buffer.codecs import Bits, Deflate
from drb.buffer.record import Field
from drb.rehearsal.state.forget import forget_in_state, ids_in_state

ROWS, STEPS, SAVED, R = 6, 14, 8, 5
BITS, DEFLATE = Bits(bits=4), Deflate(bits=4, max_bytes=28)


def make(codec=BITS, **options):
    spec = {"image": Field(torch.uint8, (1, 2, 24), codec=codec), "label": Field(torch.int64)}
    return Rehearsal(24, R, seed=4, spec=spec, batch_size=ROWS, verbose=False, **options)


def decoded(ids, codec=BITS):
    """Pixels to the nearest of 16 levels; by deflate as many as fit."""
    images = records(ids)["image"]
    if codec == BITS:
        return ((images.int() * 15 + 127) // 255 * 17).byte()
    restored = torch.empty_like(images)
    codec.decode(codec.encode(images), restored)
    return restored


def train(rehearsal, rank, world_size, steps, seen, codec=BITS):
    for step in steps:
        minibatch = records(ids_of_rank(rank, world_size, ROWS * (step + 1))[ROWS * step :])
        batch = rehearsal.extend(minibatch)
        new = ~batch["rehearsed"]
        assert torch.equal(batch["image"][new], minibatch["image"])  # what was not stored yet is as it was
        ids = batch["sample_id"][batch["rehearsed"]]
        assert torch.equal(batch["image"][batch["rehearsed"]], decoded(ids, codec))
        assert torch.equal(batch["label"], records(batch["sample_id"])["label"])
        seen.update(ids.numpy().tobytes())
    return seen.hexdigest()


def case(rank, world_size, codec, options):
    """A run, one that goes on from its state, one that forgets; the state."""
    with make(codec, **options) as rehearsal:
        train(rehearsal, rank, world_size, range(SAVED), hashlib.sha256(), codec)
        state = rehearsal.state_dict()
        whole = train(rehearsal, rank, world_size, range(SAVED, STEPS), hashlib.sha256(), codec)
    with make(codec, **options) as resumed:
        resumed.load_state_dict(state)
        assert train(resumed, rank, world_size, range(SAVED, STEPS), hashlib.sha256(), codec) == whole
        bright = decoded(torch.from_numpy(resumed.sample_ids()), codec).flatten(1)[:, 0] > 127
        gone = set(resumed.sample_ids()[bright.numpy()].tolist())
        assert gone
        resumed.forget(where=lambda fields: fields["image"].flatten(1)[:, 0] > 127)
        left = set(resumed.sample_ids().tolist())
        assert not left & gone
        train(resumed, rank, world_size, range(STEPS, STEPS + 4), hashlib.sha256(), codec)
    return state, whole


CASES = {
    f"{exchange}, asynchronous={asynchronous}": (BITS, {"exchange": exchange, "asynchronous": asynchronous})
    for exchange in ("collective", "shared")
    for asynchronous in (False, True)
}
CASES["deflate"] = (DEFLATE, {"exchange": "shared", "asynchronous": True, "admission": MeanMatching()})


@pytest.fixture(scope="module")
def results():
    return run_cases(case, 2, CASES, timeout=60)


def test_every_engine_and_exchange_draws_the_same_and_decodes_it(results):
    found = [[whole for _, whole in per_rank] for name, per_rank in results.items() if name != "deflate"]
    assert all(ranks == found[0] for ranks in found)


def go_on(rank, world_size, states):
    with make(exchange="collective") as rehearsal:
        rehearsal.load_state_dict(states, owner_of=lambda ids: ids % world_size)
        stored = rehearsal.sample_ids().tolist()
        train(rehearsal, rank, world_size, range(SAVED, STEPS), hashlib.sha256())
    return stored


def test_three_ranks_go_on_from_two(results):
    states = [state for state, _ in results["shared, asynchronous=True"]]
    stored = run_ranks(go_on, 3, states)
    before = np.concatenate([state["buffer"]["columns"]["sample_id"] for state in states])
    assert sorted(chain(*stored)) == sorted(before.tolist())


def test_a_saved_state_is_searched_by_what_is_decoded(results):
    for state, _ in results["collective, asynchronous=False"]:
        everything = torch.from_numpy(ids_in_state(state))
        dark = ids_in_state(state, lambda fields: (fields["image"] == decoded(fields["sample_id"])).flatten(1).all(1))
        assert dark.tolist() == everything.tolist()
        gone = everything[::2].numpy()
        left = ids_in_state(forget_in_state(state, gone))  # what was fetched from others is dropped, too
        assert left.tolist() == sorted(set(state["buffer"]["columns"]["sample_id"].tolist()) - set(gone.tolist()))
