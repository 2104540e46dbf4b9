"""A minibatch that is refused has changed nothing; one that is odd but sound is stored as it is."""

import copy

import numpy as np
import pytest
import torch
from samples import image_of, logits_of, minibatch_of

from drb import Rehearsal
from drb.buffer.record import Field, RecordSpec

SPEC = {"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ()), "logits": Field(torch.float32, (3,), late=True)}


def open_rehearsal(capacity=30, exemplars=7, **settings):
    return Rehearsal(capacity, exemplars, **{"verbose": False, **settings})


def changed(**fields):
    return {**minibatch_of(range(8)), **fields}


def without(name):
    return {key: value for key, value in minibatch_of(range(8)).items() if key != name}


REFUSED = [
    (None, "the minibatch is a NoneType; give a dict"),
    ([1, 2], "the minibatch is a list; give a dict"),
    ({}, "the minibatch has no fields"),
    (changed(label=torch.zeros(8, dtype=torch.int32)), "field 'label' is int32"),
    (changed(image=torch.zeros(8, 3, 5, 5, dtype=torch.uint8)), r"field 'image' is uint8\[3, 5, 5\] a sample"),
    (changed(image=torch.zeros(8, 1, 6, 5, dtype=torch.uint8)), r"\[1, 6, 5\] a sample, but .*\[1, 5, 5\]"),
    (changed(image=torch.zeros(8, dtype=torch.uint8)), r"field 'image' is uint8\[\] a sample"),
    (changed(label=torch.zeros(7, dtype=torch.int64)), "field 'label' has 7 rows, the minibatch has 8"),
    (changed(label=torch.tensor(3)), "field 'label' must be a tensor with a batch dimension, got a single number"),
    (changed(label=np.zeros(8, np.int64)), "field 'label' must be a tensor with a batch dimension, got ndarray"),
    (changed(image=torch.zeros(8, 1, 5, 5, device="meta")), "field 'image' must be a dense tensor .* on meta"),
    (changed(image=torch.eye(8).to_sparse()), "field 'image' must be a dense tensor .*sparse"),
    (changed(task=torch.zeros(8)), r"not in the schema: \['task'\]"),
    (changed(rehearsed=torch.zeros(8, dtype=torch.bool)), "has a field 'rehearsed', which extend\\(\\) adds"),
    (without("image"), r"missing: \['image'\]"),
    (without("sample_id"), "no field 'sample_id'"),
    (
        changed(sample_id=torch.arange(8).float()),
        "the sample id field 'sample_id' must hold integers, got torch.float32",
    ),
    (changed(sample_id=torch.zeros(8, dtype=torch.bool)), "must hold integers, got torch.bool"),
    (changed(sample_id=torch.zeros(8, dtype=torch.complex64)), "must hold integers, got torch.complex64"),
    (changed(sample_id=torch.zeros(7, dtype=torch.int64)), r"one integer per row, got torch.int64 \[7\] for 8 rows"),
    (minibatch_of(range(9)), "a minibatch of 9 rows after one of 8"),
]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["inline", "async"])
def test_after_a_refused_minibatch_the_rehearsal_goes_on_as_if_it_had_not_been(asynchronous):
    def run(disturb):
        seen = []
        with open_rehearsal(asynchronous=asynchronous, proportions="stream") as rehearsal:
            for t in range(3 + len(REFUSED)):
                if disturb and t >= 3:
                    bad, message = REFUSED[t - 3]
                    with pytest.raises(ValueError, match=message):
                        (rehearsal.extend, rehearsal.step)[t % 2](bad)
                seen.append(copy.deepcopy(rehearsal.extend(minibatch_of(range(t * 8, t * 8 + 8)))))
            return seen, rehearsal.state_dict()["intake"], np.sort(rehearsal.sample_ids())

    undisturbed, disturbed = run(False), run(True)
    for one, other in zip(undisturbed[0], disturbed[0], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert repr(undisturbed[1:]) == repr(disturbed[1:])


@pytest.mark.parametrize("bad", [changed(label=torch.zeros(3)), changed(image=torch.zeros(8, 0).to_sparse()), {}])
def test_a_first_minibatch_that_is_refused_fixes_no_schema(bad):
    with open_rehearsal() as rehearsal:
        with pytest.raises(ValueError, match="field|dense"):
            rehearsal.extend(bad)
        for t in range(4):
            batch = rehearsal.extend(minibatch_of(range(t * 8, t * 8 + 8)))
        assert torch.equal(batch["image"], image_of(batch["sample_id"]))


def test_missing_late_fields_can_still_be_given():
    with open_rehearsal(spec=SPEC) as rehearsal:
        for t in range(12):
            ids = range(t * 8, t * 8 + 8)
            exemplars = rehearsal.step(minibatch_of(ids))
            if exemplars is not None:
                assert torch.equal(exemplars.fields["logits"], logits_of(exemplars.sample_id))
            for bad in ({"logits": None}, {"logits": torch.zeros(7, 3)}, {"logit": torch.zeros(8, 3)}, {}):
                with pytest.raises(ValueError, match="field"):
                    rehearsal.attach(**bad)
            with pytest.raises(ValueError, match=r"the late fields \['logits'\] of the last minibatch were not"):
                rehearsal.step(minibatch_of(range(100, 108)))
            rehearsal.attach(logits=logits_of(ids).requires_grad_())
        assert 100 not in rehearsal.sample_ids()


@pytest.mark.parametrize("settings", [{}, {"batch_size": 8}], ids=["unknown size", "batch_size="])
def test_an_empty_minibatch_offers_nothing_and_gets_its_exemplars(settings):
    with open_rehearsal(**settings) as rehearsal:
        for _ in range(2):
            batch = rehearsal.extend(minibatch_of([]))  # the first ones of all
            assert {name: len(value) for name, value in batch.items()} == dict.fromkeys(batch, 0)
            assert batch["rehearsed"].dtype == torch.bool
            assert rehearsal.step(minibatch_of([])) is None
        rehearsal.extend(minibatch_of(range(8)))
        rehearsal.extend(minibatch_of([]))
        for _ in range(3):
            batch = rehearsal.extend(minibatch_of([]))
            assert batch["rehearsed"].tolist() == [True] * 7
            assert torch.equal(batch["image"], image_of(batch["sample_id"]))
        assert sorted(rehearsal.sample_ids()) == list(range(8))


def test_ids_may_come_twice_be_negative_and_small_or_large():
    ids = np.array([5, -1, 5, -(2**63), 2**63 - 1, -1, 0, 7])
    with open_rehearsal() as rehearsal:
        for _ in range(4):
            batch = rehearsal.extend(minibatch_of(ids))
        assert sorted(rehearsal.sample_ids()) == sorted(set(ids.tolist()))
        assert torch.equal(batch["image"], image_of(batch["sample_id"]))
        assert len(set(batch["sample_id"][batch["rehearsed"]].tolist())) == 6
    for dtype in (torch.int32, torch.int8, torch.uint8):
        with open_rehearsal() as rehearsal:
            for _ in range(3):
                batch = rehearsal.extend(changed(sample_id=torch.arange(8).to(dtype)))
            assert batch["sample_id"].dtype == torch.int64
            assert batch["sample_id"].tolist()[:8] == list(range(8))


def test_odd_tensors_are_stored_as_they_are():
    values = torch.full((8, 6), torch.nan)
    values[::2] = torch.inf
    strided = torch.arange(96.0).reshape(8, 12)[:, ::2]
    empty = torch.zeros(8, 0)
    grown = torch.arange(8.0).requires_grad_()
    half = (torch.arange(16.0).reshape(2, 8) / 3).to(torch.bfloat16).T
    with open_rehearsal(exemplars=8) as rehearsal:
        for _ in range(4):
            fields = {"nan": values, "strided": strided, "empty": empty, "grown": grown, "half": half}
            batch = rehearsal.extend({**fields, "sample_id": torch.arange(8)})
            assert not any(value.requires_grad for value in batch.values())
    ids = batch["sample_id"]
    assert batch["rehearsed"].sum() == 8
    assert torch.equal(batch["nan"].view(torch.int32), values[ids].view(torch.int32))  # every bit
    assert torch.equal(batch["strided"], strided[ids])
    assert torch.equal(batch["grown"], grown.detach()[ids])
    assert torch.equal(batch["half"], half[ids])
    assert batch["empty"].shape == (16, 0)


@pytest.mark.parametrize("proportions", ["uniform", "stream", "balanced"])
@pytest.mark.parametrize("admission", ["reservoir", "class_balanced", "random_replacement", "fifo"])
def test_more_exemplars_and_candidates_than_there_are_and_counters_of_long_runs(admission, proportions):
    candidates = 10**6 if admission == "random_replacement" else None
    settings = {"admission": admission, "candidates": candidates, "proportions": proportions}
    with open_rehearsal(5, 1000, **settings) as rehearsal:
        for t in range(4):
            rehearsal.extend(minibatch_of(range(t * 4, t * 4 + 4)))
        state = rehearsal.state_dict()
    seen = []
    for start in (10**9, 2**31, 10**12, 2**53):
        late = copy.deepcopy(state)
        late["round"], late["stats"]["rounds"], late["intake"]["arrivals"] = start, start, start
        with open_rehearsal(5, 1000, **settings) as rehearsal:
            rehearsal.load_state_dict(late)
            for t in range(6):
                exemplars = rehearsal.step(minibatch_of(range(t * 4, t * 4 + 4)))
            assert 1 <= len(exemplars) == len(set(exemplars.sample_id.tolist())) <= 5
            assert int(exemplars.age.min()) >= 0
            assert rehearsal.stats()["rounds"] == start + 6
            assert rehearsal.state_dict()["round"] == start + 6
            seen.append(exemplars.sample_id.tolist())
    assert all(exemplars is not None for exemplars in seen)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "at least one field"),
        ({"image": 3}, "field 'image' must be declared as Field or"),
        ({"image": (torch.uint8,)}, "field 'image' must be declared"),
        ({"image": (torch.uint8, ("a",))}, "field 'image' must be declared"),
        ({"image": (torch.uint8, (-1,))}, "field 'image' must have .* no negative size"),
        ({"image": (torch.complex64, (1,))}, "field 'image' has dtype torch.complex64; drb stores"),
        ({3: (torch.uint8, (1,))}, "field 3 must have a string as its name"),
    ],
)
def test_a_schema_that_cannot_be_is_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        RecordSpec(fields)
