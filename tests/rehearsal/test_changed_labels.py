"""A sample keeps its label: data sets whose ids collide, and states of other data, are refused."""

import numpy as np
import pytest
import torch
from samples import minibatch_of

from drb import Rehearsal
from drb.buffer.record import Field

SPEC = {"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ()), "logits": Field(torch.float32, (3,), late=True)}


def open_rehearsal(capacity=30, **settings):
    return Rehearsal(capacity, 7, **{"verbose": False, "asynchronous": False, **settings})


def relabelled(ids, by=10, field="label"):
    minibatch = minibatch_of(ids)
    return {**minibatch, field: minibatch["label"] + by}


def state_after(*minibatches, **settings):
    with open_rehearsal(**settings) as rehearsal:
        for ids in minibatches:
            rehearsal.extend(minibatch_of(ids))
        return rehearsal.state_dict()


def test_two_data_sets_that_share_ids_are_refused_and_the_rehearsal_goes_on_with_other_ids():
    with open_rehearsal(1000, admission="class_balanced") as rehearsal:
        for start in (0, 8, 16):
            rehearsal.extend(minibatch_of(range(start, start + 8)))
        before = rehearsal.counts()
        for start in (0, 8, 16):  # the last has been staged only
            with pytest.raises(ValueError, match=r"sample \d+ is stored with the label \d and is now offered with 1\d"):
                rehearsal.extend(relabelled(range(start, start + 8)))
        assert rehearsal.counts() == before
        second = relabelled(range(8))
        second["sample_id"] += 1000
        rehearsal.extend(second)
        assert set(rehearsal.counts()) > set(before)


def test_a_state_of_data_whose_labels_have_moved_is_refused_at_the_first_stored_sample():
    state = state_after(range(8), range(8, 16))
    for ids in ([3], range(8), range(8, 16)):
        with (
            open_rehearsal() as rehearsal,
            pytest.raises(ValueError, match=r"first_id=….* not that of the saved state"),
        ):
            rehearsal.load_state_dict(state)
            rehearsal.extend(relabelled(ids, by=1))


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"stratum": None}, "label"), ({"stratum": "group"}, "group")],
    ids=["uncounted", "group"],
)
def test_what_may_change_is_not_compared(settings, field):
    with open_rehearsal(**settings) as rehearsal:
        for by in range(4):
            rehearsal.extend(relabelled(range(8), by, field))


@pytest.mark.parametrize("admission", ["fifo", "reservoir", "random_replacement"])
def test_samples_that_left_or_moved_are_never_mistaken_for_others_and_most_that_stay_are_found(admission):
    rng, refused, offered = np.random.default_rng(0), 0, 0
    options = {"candidates": 4} if admission == "random_replacement" else {}
    with open_rehearsal(11, admission=admission, **options) as rehearsal:
        for step in range(60):
            rehearsal.extend(minibatch_of(rng.choice(40, 8, replace=False)))
            if step % 10 == 9:
                with rehearsal.edit() as edit:
                    edit.remove(edit.sample_ids[::3])
                for sample in rehearsal.sample_ids():
                    offered += 1
                    try:
                        rehearsal.extend(relabelled([sample]))
                    except ValueError:
                        refused += 1
    assert refused > offered / 2


def test_buffers_can_be_filled_in_inference_mode():
    def run(mode):
        seen = []
        with open_rehearsal(spec=SPEC) as rehearsal:
            for step in range(6):
                with mode if step < 3 else torch.inference_mode(False):
                    batch = rehearsal.extend(minibatch_of(range(8 * step, 8 * step + 8)))
                    rehearsal.attach(logits=torch.ones(8, 3))
                seen.append({name: values.clone() for name, values in batch.items()})
        return seen

    for one, other in zip(run(torch.inference_mode()), run(torch.no_grad()), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
