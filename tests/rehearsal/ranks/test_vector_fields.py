"""Admission that reads a field of the records, on real ranks: an image, or one that exists only after the forward."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from ranks import run_cases
from rehearsal.mean_matching import Reference, flat
from rehearsal.ranks.streams import NUM_CLASSES, ids_of_rank, records

from drb import Rehearsal
from drb.buffer.admission.mean_matching import MeanMatching
from drb.buffer.codecs import Bits
from drb.buffer.record import Field, RecordSpec
from drb.rehearsal.memory import memory_bytes
from drb.rehearsal.state.check import check_state
from drb.rehearsal.state.forget import forget_in_state, ids_in_state

CAPACITY, ROWS, R, STEPS, SAVED = 12, 6, 5, 12, 7
IMAGE = Field(torch.uint8, (1, 2, 24))
SPEC = {"image": IMAGE, "label": Field(torch.int64), "features": Field(torch.float32, (3,), late=True)}
ENCODED = {**SPEC, "image": Field(torch.uint8, (1, 2, 24), codec=Bits(bits=4))}


def features(ids):
    return torch.stack((torch.sin(ids * 1.3), torch.cos(ids * 0.7), torch.sin(ids * ids * 0.11)), 1).float()


def vectors_of(ids, field):
    return flat(records(ids)["image"] if field == "image" else features(ids))


def minibatch_of(rank, world_size, step):
    return records(ids_of_rank(rank, world_size, ROWS * (step + 1))[ROWS * step :])


def make(field, spec=SPEC, **options):
    policy = MeanMatching(field=field)
    return Rehearsal(CAPACITY, R, seed=2, spec=spec, admission=policy, batch_size=ROWS, verbose=False, **options)


def take_step(rehearsal, rank, world_size, step, seen, between=None):
    minibatch = minibatch_of(rank, world_size, step)
    exemplars = rehearsal.step(minibatch)
    if exemplars is not None:
        ids = exemplars.sample_id
        assert torch.equal(exemplars.fields["features"], features(ids))
        seen.update(ids.numpy().tobytes() + exemplars.fields["image"].contiguous().numpy().tobytes())
    if between is not None:
        between()
    rehearsal.attach(features=features(minibatch["sample_id"]))


def held_after(field, rank, world_size, steps):
    """Ids that mean matching keeps, without a buffer."""
    reference = Reference(CAPACITY)
    for step in range(steps):
        ids = minibatch_of(rank, world_size, step)["sample_id"]
        vectors = vectors_of(ids, field)
        reference.offer([(sample % NUM_CLASSES, v, sample) for sample, v in zip(ids.tolist(), vectors, strict=True)])
    return reference.names()


def case(rank, world_size, field, options):
    saved, digest, again = {}, hashlib.sha256(), hashlib.sha256()
    with make(field, **options) as rehearsal:
        for step in range(STEPS):
            between = (lambda: saved.update(rehearsal.state_dict())) if step == SAVED else None
            seen = digest if step > SAVED else hashlib.sha256()
            take_step(rehearsal, rank, world_size, step, seen, between)
        kept = sorted(rehearsal.sample_ids().tolist())
        assert kept == held_after(field, rank, world_size, STEPS)
        state = rehearsal.state_dict()
        gone = range(0, world_size * ROWS * STEPS, 3)
        rehearsal.forget(gone)
        forgotten = rehearsal.state_dict()
        with rehearsal.edit() as edit:
            extra = records([10_000 + rank, 20_000 + rank])
            edit.insert({**extra, "features": features(extra["sample_id"])})
            edit.remove(edit.sample_ids[:1])
        edited, left = rehearsal.state_dict()["buffer"]["admission"], rehearsal.sample_ids().tolist()
        assert set(extra["sample_id"].tolist()) <= set(left)
        assert_stored_sums(edited, left, field)
        before = forgotten["buffer"]["admission"]["counts"].sum()
        assert edited["counts"].sum() == before + 2  # what is inserted counts in the means, what is removed still does
    minibatch, unknown = minibatch_of(rank, world_size, SAVED), saved["buffer"]["undecided"]
    check_state(saved)
    assert (unknown is not None) == (field == "features")
    with make(field, **options) as resumed:
        resumed.load_state_dict(saved)
        with pytest.raises(ValueError, match="were not attached"):
            resumed.step(minibatch_of(rank, world_size, SAVED + 1))
        resumed.attach(features=features(minibatch["sample_id"]))
        for step in range(SAVED + 1, STEPS):
            take_step(resumed, rank, world_size, step, again)
        assert again.hexdigest() == digest.hexdigest()
        assert sorted(resumed.sample_ids().tolist()) == kept
    return {"kept": kept, "seen": digest.hexdigest(), "saved": saved, "end": state, "forgotten": forgotten}


CASES = {
    f"{field}, {exchange}, asynchronous={asynchronous}": (
        field,
        {"exchange": exchange, "asynchronous": asynchronous},
    )
    for field in ("image", "features")
    for exchange, asynchronous in (("shared", False), ("shared", True), ("collective", True))
}
FIELDS = pytest.mark.parametrize("field", ["image", "features"])


@pytest.fixture(scope="module")
def results():
    return run_cases(case, 2, CASES, timeout=90)


@pytest.fixture
def of_field(results, field):
    """What the ranks found in the first case of this field."""
    return next(per_rank for name, per_rank in results.items() if name.startswith(field))


@FIELDS
def test_every_engine_and_exchange_keeps_and_draws_the_same(results, field):
    found = [[(r["kept"], r["seen"]) for r in results[name]] for name in CASES if name.startswith(field)]
    assert all(ranks == found[0] for ranks in found)
    assert all(len(kept) == CAPACITY for kept, _ in found[0])


def means(ids, field):
    """The mean of the vectors of each class that these samples have, by class."""
    vectors = vectors_of(ids, field)
    return {s: vectors[ids.numpy() % NUM_CLASSES == s].mean(0) for s in np.unique(ids.numpy() % NUM_CLASSES).tolist()}


def assert_stored_sums(admission, ids, field):
    vectors, strata = vectors_of(torch.tensor(ids), field), np.array(ids) % NUM_CLASSES
    for stratum, found in zip(admission["strata"].tolist(), admission["stored_sums"], strict=True):
        np.testing.assert_allclose(found, vectors[strata == stratum].sum(0), rtol=1e-9, atol=1e-9)


def assert_means(admission, expected):
    assert admission["strata"].tolist() == sorted(expected)
    found = admission["totals"] / admission["counts"][:, None]
    np.testing.assert_allclose(found, [expected[stratum] for stratum in sorted(expected)], rtol=1e-12)


@FIELDS
def test_nothing_of_what_was_forgotten_is_in_the_means(of_field, field):
    for result in of_field:
        gone = np.array([i for i in range(200) if i % 3 == 0])
        saved = forget_in_state(result["end"], gone)["buffer"]
        for buffer in (saved, result["forgotten"]["buffer"]):
            left = [sample for sample in result["kept"] if sample % 3]
            assert sorted(buffer["columns"]["sample_id"].tolist()) == left
            assert_means(buffer["admission"], means(torch.tensor(left), field))
            assert_stored_sums(buffer["admission"], left, field)


@FIELDS
def test_another_number_of_ranks_goes_on_with_the_mean_of_what_all_have_seen(of_field, field):
    with make(field) as rehearsal:
        rehearsal.load_state_dict([result["end"] for result in of_field], owner_of=lambda ids: ids * 0)
        rehearsal.step(records([]))
        rehearsal.attach(features=torch.zeros(0, 3))
        admission, ids = rehearsal.state_dict()["buffer"]["admission"], rehearsal.sample_ids()
        everything = torch.arange(2 * STEPS * ROWS)
        assert_means(admission, means(everything, field))
        assert admission["counts"].sum() == STEPS * ROWS  # as much as one rank's
        assert_stored_sums(admission, ids.tolist(), field)
    reference = Reference(CAPACITY)
    held = torch.tensor(sorted(id_ for result in of_field for id_ in result["kept"]))
    vectors = vectors_of(held, field)
    reference.seen = {stratum: [mean] for stratum, mean in means(everything, field).items()}
    reference.held = [(i % NUM_CLASSES, v, i) for i, v in zip(held.tolist(), vectors, strict=True)]
    reference.offer([])
    assert sorted(ids.tolist()) == reference.names()


@pytest.mark.parametrize("field", ["features"])
def test_what_is_undecided_is_found_and_forgotten_in_a_saved_state(of_field, field):
    for rank, result in enumerate(of_field):
        new = set(minibatch_of(rank, 2, SAVED)["sample_id"].tolist())
        assert new <= set(ids_in_state(result["saved"]).tolist())
        after = forget_in_state(result["saved"], np.array([0]))
        assert not new & set(ids_in_state(after).tolist())
        check_state(after)


@pytest.mark.parametrize("field", ["features"])
@pytest.mark.parametrize("change", ["rows", "key", "round"])
def test_damaged_undecided_records_are_refused(of_field, field, change):
    state = of_field[0]["saved"]
    undecided = dict(state["buffer"]["undecided"])
    undecided[change] = np.int64(-1) if change == "round" else undecided[change][:-1]
    broken = {**state, "buffer": {**state["buffer"], "undecided": undecided}}
    rehearsal = make(field)
    with pytest.raises(ValueError, match=f"state is damaged: its undecided {change}"):
        rehearsal.load_state_dict([broken, of_field[1]["saved"]])
    rehearsal.close()


def test_the_policy_sees_values_as_they_are_stored_and_their_memory_is_counted():
    seen, spec = [], RecordSpec(ENCODED)

    class Watching(MeanMatching):
        def admit(self, columns, offer):
            seen.append(offer.fields["image"].clone())
            return super().admit(columns, offer)

    minibatch = records(range(ROWS))
    with Rehearsal(CAPACITY, R, spec=ENCODED, admission=Watching(field="image"), verbose=False) as rehearsal:
        rehearsal.step(minibatch)
        rehearsal.attach(features=features(minibatch["sample_id"]))
        counted = rehearsal._running.parts.memory_bytes()["staging"]
        staging = rehearsal._running.parts.exchange.staging_bytes
    assert torch.equal(seen[0], ((minibatch["image"].int() * 15 + 127) // 255 * 17).byte())
    plain = memory_bytes(spec.row_bytes, CAPACITY, ROWS, R, staging, decoded_bytes=spec.decoded_bytes)["staging"]
    pool = 4 * 48 * (CAPACITY + ROWS + (CAPACITY + ROWS) // 4)  # 48 pixels in float32, with reserve
    assert counted - plain == ROWS * (spec.row_bytes + spec.decoded_bytes) + pool
