"""The rehearsal on one rank: it sees the same after a resume or on a thread."""

import io

import numpy as np
import pytest
import torch
from admissions import OPEN_ADMISSIONS, UNTOLD_PROPORTIONS
from rehearsal.rehearsing import BOTH, SPEC, assert_same, extend_all, open_rehearsal, stream
from samples import minibatch_of

from drb.rehearsal.state.check import FORMAT

# -- asynchronous = inline, resumed = uninterrupted

POLICIES = pytest.mark.parametrize(
    ("admission", "proportions"),
    [pytest.param(a, p, id=f"{a}-{p}") for a in OPEN_ADMISSIONS for p in UNTOLD_PROPORTIONS],
)


def written_and_read(state):
    """By torch as it is by default: nothing is unpickled but data."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@POLICIES
def test_asynchronous_equals_inline(admission, proportions):
    def run(asynchronous):
        settings = {"admission": admission, "proportions": proportions, "asynchronous": asynchronous}
        with open_rehearsal(spec=SPEC, **settings) as rehearsal:
            return extend_all(rehearsal, stream(), late=True)

    assert_same(run(True), run(False))


@BOTH
@POLICIES
def test_a_resumed_run_sees_the_same_batches(admission, proportions, asynchronous):
    settings = {"admission": admission, "proportions": proportions, "asynchronous": asynchronous, "spec": SPEC}
    minibatches = stream()
    with open_rehearsal(**settings) as rehearsal:
        expected = extend_all(rehearsal, minibatches, late=True)
    for stop in (1, 2, 17):
        with open_rehearsal(**settings) as rehearsal:
            extend_all(rehearsal, minibatches[:stop], late=True)
            state = written_and_read(rehearsal.state_dict())
            # saving changes nothing
            assert_same(extend_all(rehearsal, minibatches[stop:], late=True), expected[stop:])
        with open_rehearsal(**settings) as resumed:
            resumed.load_state_dict(state)
            assert_same(extend_all(resumed, minibatches[stop:], late=True), expected[stop:])


def test_a_resume_between_extend_and_attach_still_asks_for_the_late_fields():
    minibatches = stream(12)
    with open_rehearsal(spec=SPEC) as rehearsal:
        expected = extend_all(rehearsal, minibatches, late=True)
    rehearsal = open_rehearsal(spec=SPEC)
    extend_all(rehearsal, minibatches[:6], late=True)
    rehearsal.extend(minibatch_of(minibatches[6]))
    state = rehearsal.state_dict()
    rehearsal.close()
    with open_rehearsal(spec=SPEC) as resumed:
        resumed.load_state_dict(state)
        with pytest.raises(ValueError, match="were not attached"):
            resumed.extend(minibatch_of(minibatches[7]))
    # the checkpoint is taken after the step; the forward pass of step 6 is done by then
    rehearsal = open_rehearsal(spec=SPEC)
    extend_all(rehearsal, minibatches[:7], late=True)
    with open_rehearsal() as resumed:  # the schema, late fields included, is in the state
        resumed.load_state_dict(rehearsal.state_dict())
        assert_same(extend_all(resumed, minibatches[7:], late=True), expected[7:])
    rehearsal.close()


def test_arrivals_are_counted_on_after_a_resume():
    minibatch = minibatch_of([5, 5, 6])
    del minibatch["sample_id"]
    with open_rehearsal(100, sample_id="arrival") as rehearsal:
        rehearsal.extend(minibatch)
        state = rehearsal.state_dict()
    with open_rehearsal(100, sample_id="arrival") as resumed:
        resumed.load_state_dict(state)
        resumed.extend(minibatch)
        assert resumed.sample_ids().tolist() == list(range(6))


def test_a_state_can_be_passed_on_before_the_first_minibatch():
    with open_rehearsal() as rehearsal:
        empty = rehearsal.state_dict()
        extend_all(rehearsal, stream(5))
        state = rehearsal.state_dict()
    with open_rehearsal() as fresh:
        fresh.load_state_dict(empty)
        fresh.extend(minibatch_of(range(8)))
    with open_rehearsal() as resumed:
        resumed.load_state_dict(state)
        assert resumed.state_dict()["round"] == state["round"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"admission": "fifo"}, "admission='reservoir'.*this rehearsal has 'fifo'"),
        ({"seed": 1}, "seed=0.*this rehearsal has 1"),
        ({"capacity": 3}, "the saved buffer has 24 records .* this one takes 3"),
        ({"spec": SPEC}, "the saved schema is .* spec= says .* may add optional late ones"),
        ({"proportions": "stream"}, "no count of distinct offers, which proportions=stream needs"),
        ({"exemplars": 2}, "the saved round holds 7 exemplars, this rehearsal draws 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_state_that_does_not_fit_is_refused(settings, message):
    with open_rehearsal() as rehearsal:
        extend_all(rehearsal, np.arange(32).reshape(4, 8))
        state = rehearsal.state_dict()
    rehearsal = open_rehearsal(**settings)
    with pytest.raises(ValueError, match=message):
        rehearsal.load_state_dict(state)
        rehearsal.extend(minibatch_of(range(8)))
    rehearsal.close()


def test_a_state_of_another_format_or_too_late_is_refused():
    with open_rehearsal() as rehearsal:
        with pytest.raises(ValueError, match=f"state of format 9, this version reads format {FORMAT}"):
            rehearsal.load_state_dict({"format": 9})
        rehearsal.extend(minibatch_of(range(8)))
        with pytest.raises(ValueError, match="must come before the first minibatch"):
            rehearsal.load_state_dict(rehearsal.state_dict())


def test_a_state_of_other_data_is_refused_and_one_of_unknown_data_taken_with_a_warning():
    def saved(data):
        with open_rehearsal(spec=SPEC, data=data) as rehearsal:
            extend_all(rehearsal, stream()[:4], late=True)
            return rehearsal.state_dict()

    for before, now in ((None, "photos 1f"), ("photos 1f", None)):
        with open_rehearsal(spec=SPEC, data=now) as rehearsal:
            with pytest.warns(UserWarning, match="has data='photos 1f' and the .* has none") as told:
                rehearsal.load_state_dict(saved(before))
            assert told[0].filename == __file__
    with open_rehearsal(spec=SPEC, data="photos 1f") as rehearsal:
        rehearsal.load_state_dict(saved("photos 1f"))
    with (
        open_rehearsal(spec=SPEC, data="photos 2a") as rehearsal,
        pytest.raises(ValueError, match="the state was saved with data='photos 1f', this rehearsal has 'photos 2a'"),
    ):
        rehearsal.load_state_dict(saved("photos 1f"))
