"""Forgetting in saved states: what was removed is nowhere in them, and they go on as the rehearsal itself would."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from admissions import OPEN_ADMISSIONS
from ranks import run_ranks
from rehearsal.ranks.streams import num_wrong, records

from drb import Rehearsal
from drb.buffer.admission import Columns, Offer
from drb.buffer.record import SAMPLE_ID, Field
from drb.rehearsal.state.check import FORMAT
from drb.rehearsal.state.forget import deny_in_state, forget_in_state, ids_in_state
from drb.runs.forget import forget_in_run


def make(**options):
    given = {"capacity": 20, "exemplars": 5, "seed": 1, "batch_size": 6, "asynchronous": False, "verbose": False}
    return Rehearsal(**given | options)


def minibatch(rank, world_size, step):
    return records([(step * 6 + i) * world_size + rank for i in range(6)])


def trained(steps=12, **options):
    rehearsal = make(**options)
    for step in range(steps):
        rehearsal.extend(minibatch(0, 1, step))
    return rehearsal


def go_on(rehearsal, steps, rank=0, world_size=1):
    seen = []
    for step in steps:
        batch = rehearsal.extend(minibatch(rank, world_size, step))
        assert num_wrong(batch) == 0
        seen.append(batch["sample_id"].tolist())
    return seen, rehearsal.sample_ids().tolist()


@pytest.mark.parametrize("name", OPEN_ADMISSIONS)
def test_a_state_forgets_as_the_rehearsal_does(name):
    options = {"admission": name, "candidates": 4 if name == "random_replacement" else None}
    rehearsal = trained(**options)
    state = rehearsal.state_dict()
    before = copy.deepcopy(state)
    gone = np.union1d(ids_in_state(state)[::3], [3, 999])
    forgotten = forget_in_state(state, gone)
    assert str(state) == str(before)  # it was not changed
    assert not np.isin(ids_in_state(forgotten), gone).any()
    assert not np.isin(forgotten["buffer"]["rows"][:, SAMPLE_ID], gone).any()
    assert forgotten["denied"].tolist() == gone.tolist()

    assert rehearsal.forget(gone) == len(state["buffer"]["columns"]["sample_id"]) - len(forgotten["buffer"]["rows"])
    with make(**options) as resumed:
        resumed.load_state_dict(forgotten)
        assert go_on(resumed, range(12, 24)) == go_on(rehearsal, range(12, 24))
        assert go_on(resumed, range(6)) == go_on(rehearsal, range(6))  # offered again
        assert not np.isin(resumed.sample_ids(), gone).any()
        assert resumed.stats()["rounds"] == rehearsal.stats()["rounds"]
        assert resumed.stats()["exemplars_fetched"] == rehearsal.stats()["exemplars_fetched"]
    rehearsal.close()


def test_what_the_last_minibatch_is_about_to_replace_is_removed_too():
    rehearsal = trained(admission="fifo", steps=8)
    state = rehearsal.state_dict()
    replaced = state["buffer"]["rows"][state["buffer"]["staged"]["slots"], SAMPLE_ID]
    assert len(replaced)
    assert not np.isin(replaced, state["buffer"]["columns"]["sample_id"]).any()
    assert not np.isin(ids_in_state(forget_in_state(state, replaced)), replaced).any()
    assert rehearsal.forget(replaced) == 0  # they were replaced already …
    assert not np.isin(rehearsal._running.parts.buffer.rows[:, SAMPLE_ID], replaced).any()  # … and their rows are zero
    rehearsal.close()


def test_a_minibatch_without_its_late_fields_is_dropped():
    sample = records([0])
    spec = {k: Field(v.dtype, tuple(v.shape[1:])) for k, v in sample.items() if k != "sample_id"}
    options = {"spec": {**spec, "logits": Field(torch.float32, (3,), late=True)}, "admission": "fifo"}
    rehearsal = make(**options)
    for step in range(8):
        if step:
            rehearsal.attach(logits=torch.ones(6, 3))
        rehearsal.extend(minibatch(0, 1, step))
    state = forget_in_state(rehearsal.state_dict(), np.array([30]))
    rehearsal.attach(logits=torch.ones(6, 3))
    rehearsal.close()
    with make(**options) as resumed:
        resumed.load_state_dict(state)
        assert sorted(resumed.sample_ids()) == [28, 29, *range(31, 42)]  # 20 less one, less the six of step 7's slots
        resumed.forget([31])
        with pytest.raises(ValueError, match=r"late fields \['logits'\] of the last minibatch were not attached"):
            resumed.extend(minibatch(0, 1, 8))


def test_states_without_exemplars():
    empty = {"format": FORMAT, "round": -1}
    assert forget_in_state(empty, np.array([4]))["denied"].tolist() == [4]
    assert deny_in_state({**empty, "denied": np.array([2])}, np.array([4]))["denied"].tolist() == [2, 4]
    assert ids_in_state(empty).tolist() == []
    with make() as rehearsal:
        rehearsal.load_state_dict(forget_in_state(empty, np.array([4])))
        assert rehearsal.state_dict()["denied"].tolist() == [4]
        rehearsal.extend(minibatch(0, 1, 0))
        assert 4 not in rehearsal.sample_ids()


def test_conditions_on_a_state():
    with trained() as rehearsal:
        state = rehearsal.state_dict()
    ids = ids_in_state(state)
    assert ids_in_state(state, {"label": 3}).tolist() == [i for i in ids.tolist() if i % 5 == 3]
    assert ids_in_state(state, lambda fields: fields["sample_id"] > 40).tolist() == [i for i in ids.tolist() if i > 40]


def resumed_on_all_ranks(rank, world_size):
    """A sample that one rank holds is forgotten in all ranks' states; the next step is as full as ever."""
    with make(asynchronous=True) as rehearsal:
        for step in range(12):
            rehearsal.extend(minibatch(rank, world_size, step))
        state = rehearsal.state_dict()
    gone = np.arange(0, 60)
    with make(asynchronous=True) as resumed:
        resumed.load_state_dict(forget_in_state(state, gone))
        seen, _ = go_on(resumed, range(12, 18), rank, world_size)
        assert all(len(ids) == 6 + 5 for ids in seen)
        assert not np.isin([ids[6:] for ids in seen], gone).any()
    return True


def test_ranks_run_the_round_again_after_loading():
    assert run_ranks(resumed_on_all_ranks, 3, timeout=60) == [True] * 3


@pytest.mark.parametrize("name", OPEN_ADMISSIONS)
def test_ids_denied_before_a_state_is_loaded_are_not_taken_from_it(name):
    options = {"admission": name, "candidates": 4 if name == "random_replacement" else None}
    state = trained(**options).state_dict()
    gone = ids_in_state(state)[::2]
    with make(**options) as resumed:
        resumed.forget(gone)
        resumed.load_state_dict(state)
        seen, stored = go_on(resumed, range(12, 40))
    assert not np.isin(np.concatenate(seen), gone).any()
    assert not np.isin(stored, gone).any()


def test_a_denied_id_that_was_evicted_stays_denied():
    columns = Columns(2)
    for sample in (1, 2):
        columns.put(np.array([sample - 1]), offer_of(sample), np.array([0]))
    columns.deny(np.array([1]))
    columns.put(np.array([0]), offer_of(3), np.array([0]))
    assert columns.is_new(np.array([1, 2, 3, 4])).tolist() == [False, False, False, True]


def offer_of(sample):
    one = np.array([sample])
    return Offer(one, one, one.astype(np.uint64), 0)


def test_a_run_without_checkpoints_has_nothing_to_forget(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="has no checkpoints"):
        forget_in_run(tmp_path, [1])
