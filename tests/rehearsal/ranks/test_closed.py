"""Buffers that only `edit` fills, as herding does: another number of ranks deals their exemplars evenly."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from ranks import run_ranks
from rehearsal.ranks.streams import NUM_CLASSES, ids_of_rank, num_wrong, records

from drb import Rehearsal
from drb.buffer.admission import NOTHING
from drb.buffer.admission.class_balanced import ClassBalanced

CAPACITY, R = 20, 4


class Herded(ClassBalanced):
    """Nothing is admitted; a class that shrinks loses its last places."""

    is_closed = True

    def admit(self, columns, offer):
        return NOTHING


def make(capacity=CAPACITY, **options):
    return Rehearsal(capacity, R, seed=1, admission=Herded, batch_size=6, verbose=False, **options)


def fill(rank, world_size):
    """Rank 0 inserts 17 exemplars, rank 1 four of other ids; what is offered is not stored."""
    with make() as rehearsal:
        rehearsal.step(records(ids_of_rank(rank, world_size, 6)))
        own = np.arange(100, 117) if rank == 0 else np.arange(200, 204)
        with rehearsal.edit() as edit:
            edit.insert(records(own), keys=np.arange(len(own)))
        for step in range(1, 4):
            exemplars = rehearsal.step(records(ids_of_rank(rank, world_size, 6 * step)[-6:]))
            assert exemplars.sample_id.min() >= 100
        return rehearsal.state_dict()


def go_on(rank, world_size, states, options):
    """No owner is needed: the state, and the ids that are stored and drawn."""
    with make(**options) as rehearsal:
        rehearsal.load_state_dict(states)
        stored, drawn = rehearsal.sample_ids().tolist(), set()
        for step in range(10):
            batch = rehearsal.extend(records(ids_of_rank(rank, world_size, 3 * (step + 1))[-3:]))
            assert num_wrong(batch) == 0
            drawn.update(batch["sample_id"][batch["rehearsed"]].tolist())
        assert rehearsal.sample_ids().tolist() == stored
        return rehearsal.state_dict(), stored, drawn


def test_from_two_ranks_to_three_and_to_one():
    everything = [*range(100, 117), *range(200, 204)]
    states = run_ranks(fill, 2)
    assert [len(state["buffer"]["columns"]["sample_id"]) for state in states] == [17, 4]
    results = run_ranks(go_on, 3, states, {"exchange": "shared"})
    held = [stored for _, stored, _ in results]
    assert sorted(chain(*held)) == everything
    assert [len(stored) for stored in held] == [7, 7, 7]
    for stratum in range(NUM_CLASSES):
        counts = [sum(sample % NUM_CLASSES == stratum for sample in stored) for stored in held]
        assert max(counts) - min(counts) <= 1
    assert set.union(*(drawn for _, _, drawn in results)) == set(everything)  # also those of other ranks

    (result,) = run_ranks(go_on, 1, [state for state, _, _ in results], {"capacity": 21})
    assert sorted(result[1]) == everything
    (result,) = run_ranks(go_on, 1, [state for state, _, _ in results], {"capacity": 10})
    places = {sample: sample - (100 if sample < 200 else 200) for sample in everything}
    for stratum in range(NUM_CLASSES):  # the first two places of each
        of_class = sorted((place, sample) for sample, place in places.items() if sample % NUM_CLASSES == stratum)
        kept = sorted(places[sample] for sample in result[1] if sample % NUM_CLASSES == stratum)
        assert kept == [place for place, _ in of_class[:2]]


def test_a_total_capacity_that_is_full_keeps_everything():
    """21 in total on two ranks is 11 and 10; on three 7 each; on four 6, 5, 5 and 5."""
    options = {"capacity": 21, "capacity_scope": "total"}
    (state,) = run_ranks(fill_total, 1, options)
    for world_size in (2, 4):
        results = run_ranks(go_on, world_size, [state], options)
        sizes = [len(stored) for _, stored, _ in results]
        assert sizes == [21 // world_size + (rank < 21 % world_size) for rank in range(world_size)]
        assert sorted(chain(*(stored for _, stored, _ in results))) == list(range(21))


def fill_total(rank, world_size, options):
    with make(**options) as rehearsal:
        rehearsal.step(records([]) | {"sample_id": torch.zeros(0, dtype=torch.int64)})
        with rehearsal.edit() as edit:
            edit.insert(records(range(21)))
        return rehearsal.state_dict()
