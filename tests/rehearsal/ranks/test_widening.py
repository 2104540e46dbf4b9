"""A buffer that plain replay filled, gone on with by a method that stores outputs: on as many ranks, and on fewer."""

from __future__ import annotations

import pytest
import torch
from ranks import run_cases
from rehearsal.ranks.streams import ids_of_rank, num_wrong, records

from drb import Rehearsal
from drb.buffer.record import Field

R, BEFORE, STEPS = 5, 6, 12
PLAIN = {"image": Field(torch.uint8, (1, 2, 24)), "label": Field(torch.int64)}
NARROW = {**PLAIN, "features": Field(torch.float32, (2,), late=True, growing=True)}
# larger than the image, so that every field lies elsewhere in a row
WIDE = {**PLAIN, "logits": Field(torch.float32, (40,), late=True, optional=True)}
WIDER = {**WIDE, "features": Field(torch.float32, (50,), late=True, growing=True)}


def make(spec, **options):
    return Rehearsal(20, R, seed=3, spec=spec, batch_size=6, verbose=False, **options)


def outputs(ids):
    return ids[:, None] + torch.arange(40.0)


def train(rehearsal, rank, world_size, steps, spec, known_from=BEFORE):
    """Ids of the exemplars of each step; what they hold is checked, and also that what was not stored is missing."""
    drawn, known = [], set()
    most = spec["features"].shape[0] if "features" in spec else 0
    for step in steps:
        minibatch = records(ids_of_rank(rank, world_size, 6 * (step + 1))[6 * step :])
        exemplars = rehearsal.step(minibatch)
        if exemplars is not None:
            ids = exemplars.sample_id
            assert num_wrong({**exemplars.fields, "sample_id": ids}) == 0
            drawn.append(ids.tolist())
            if "logits" in spec:
                has = ids >= 6 * known_from * world_size
                assert torch.equal(exemplars.known["logits"] > 0, has)
                assert torch.equal(exemplars.fields["logits"][has], outputs(ids)[has])
                known.update(has.tolist())
            if "features" in spec:
                assert torch.equal(exemplars.known["features"], torch.where(ids >= 6 * BEFORE * world_size, most, 2))
                assert torch.equal(exemplars.fields["features"][:, :2], ids[:, None].float().repeat(1, 2))
        late = {"logits": outputs(minibatch["sample_id"])} if "logits" in spec else {}
        if "features" in spec:
            columns = most if step >= BEFORE else 2
            late["features"] = minibatch["sample_id"][:, None].float().repeat(1, columns)
        if late:
            rehearsal.attach(**late)
    assert "logits" not in spec or known == {False, True}
    return drawn


def fill(rank, world_size, narrow, asynchronous):
    """The state, and the draws of a run that goes on as it is."""
    with make(narrow, asynchronous=asynchronous) as rehearsal:
        train(rehearsal, rank, world_size, range(BEFORE), narrow)
        state = rehearsal.state_dict()
        return state, train(rehearsal, rank, world_size, range(BEFORE, STEPS), narrow)


def go_on(rank, world_size, narrow, wide, asynchronous):
    state, expected = fill(rank, world_size, narrow, asynchronous)
    with make(wide, asynchronous=asynchronous) as rehearsal:
        rehearsal.load_state_dict(state)
        assert train(rehearsal, rank, world_size, range(BEFORE, STEPS), wide) == expected
    return state


CASES = {
    f"{name}, asynchronous={asynchronous}": (narrow, wide, asynchronous)
    for name, narrow, wide in (("a new field", PLAIN, WIDE), ("and a larger one", NARROW, WIDER))
    for asynchronous in (False, True)
}


@pytest.fixture(scope="module")
def states():
    return run_cases(go_on, 2, CASES)


def test_the_same_exemplars_are_drawn_and_lack_what_was_not_stored(states):
    assert set(states) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_on_one_rank_instead_of_two(states, name):
    _, wide, _ = CASES[name]
    with make(wide, asynchronous=False) as rehearsal:
        saved = states[name]
        rehearsal.load_state_dict(saved, owner_of=lambda ids: ids * 0)
        ids = {int(i) for state in saved for i in state["buffer"]["columns"]["sample_id"]}
        assert set(rehearsal.sample_ids().tolist()) < ids
        exemplars = rehearsal.step(records([]))
        assert len(exemplars.sample_id) == R
        assert set(exemplars.sample_id.tolist()) <= ids
        assert num_wrong({**exemplars.fields, "sample_id": exemplars.sample_id}) == 0
        assert not exemplars.known["logits"].any()


def test_what_would_lose_something_or_lack_a_field_is_refused(states):
    saved = states["a new field, asynchronous=False"]
    required = {**PLAIN, "logits": Field(torch.float32, (40,), late=True)}
    for spec in (required, {"image": PLAIN["image"]}, {**WIDE, "label": Field(torch.int32)}):
        rehearsal = make(spec)
        with pytest.raises(ValueError, match=r"the saved schema is .* may add optional late ones"):
            rehearsal.load_state_dict(saved, owner_of=lambda ids: ids * 0)
        rehearsal.close()
