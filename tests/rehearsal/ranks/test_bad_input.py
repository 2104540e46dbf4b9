"""Bad input on one of several ranks: the others wait, or are told, and nothing that is stored changes."""

from __future__ import annotations

import pytest
import torch
from ranks import run_ranks
from rehearsal.ranks.streams import ids_of_rank, nothing, num_wrong, records
from rehearsal.ranks.test_ends import IN_PLACES

from drb import Rehearsal
from drb.rehearsal.build_parts import PartsFactory
from drb.rehearsal.memory import require_room


def steps_with_refusals(rank, world_size, exchange, asynchronous, bad_steps):
    """What each rank saw, when rank 1's minibatches of some steps are refused and given again."""
    seen = []
    ids = ids_of_rank(rank, world_size, 80)
    with Rehearsal(20, 4, exchange=exchange, asynchronous=asynchronous, verbose=False) as rehearsal:
        for t in range(10):
            if rank == 1 and t in bad_steps:
                for bad in (records(ids[:8]) | {"label": torch.zeros(3)}, records(ids[:9]) if t else {}):
                    with pytest.raises(ValueError, match=r"field|after one of 8"):
                        rehearsal.extend(bad)
            batch = rehearsal.extend(records(ids[t * 8 : t * 8 + 8]))
            assert num_wrong(batch) == 0
            seen.append(batch["sample_id"].tolist())
    return seen


@IN_PLACES
def test_a_refused_call_can_be_repeated_while_the_others_wait(exchange, asynchronous):
    undisturbed = run_ranks(steps_with_refusals, 2, exchange, asynchronous, ())
    assert run_ranks(steps_with_refusals, 2, exchange, asynchronous, (0, 1, 5)) == undisturbed


def steps_with_empty_ranks(rank, world_size, empty_steps):
    """Rows of the stream and exemplars per step."""
    sizes = []
    ids = ids_of_rank(rank, world_size, 80)
    with Rehearsal(20, 4, asynchronous=True, verbose=False) as rehearsal:
        for t in range(8):
            empty = t < empty_steps[rank]
            batch = rehearsal.extend(nothing() if empty else records(ids[t * 8 : t * 8 + 8]))
            assert num_wrong(batch) == 0
            sizes.append((int((~batch["rehearsed"]).sum()), int(batch["rehearsed"].sum())))
        stored = len(rehearsal.sample_ids())
    return sizes, stored


def test_a_rank_without_rows_gets_its_exemplars():
    (first, stored_first), (second, stored_second) = run_ranks(steps_with_empty_ranks, 2, (8, 0))
    assert first == [(0, 0)] * 2 + [(0, 4)] * 6
    assert second == [(8, 0)] * 2 + [(8, 4)] * 6
    assert (stored_first, stored_second) == (0, 20)


def test_ranks_that_all_begin_without_rows_begin_later():
    (first, _), (second, _) = run_ranks(steps_with_empty_ranks, 2, (2, 3))
    assert first == [(0, 0)] * 2 + [(8, 0)] * 2 + [(8, 4)] * 4
    assert second == [(0, 0)] * 3 + [(8, 0)] + [(8, 4)] * 4


def too_large(rank, world_size, capacity, exchange, free):
    """The error, and the memory that was taken before it."""
    if free is not None:

        class Small(PartsFactory):
            def free_memory(self):
                return free[rank]

        Rehearsal._factory = Small()
    rehearsal = Rehearsal(capacity, 4, exchange=exchange, verbose=False)
    for _ in range(2):  # it can be tried again
        with pytest.raises(ValueError) as raised:
            rehearsal.extend(records(range(8)))
    return str(raised.value)


@pytest.mark.parametrize(
    ("capacity", "exchange", "free", "message"),
    [
        (10**15, "collective", None, r"buffers of 2 ranks need [\d,]+ TiB of memory, [\d.,]+ GiB are free; lower"),
        ("900TiB", "shared", None, r"buffers of 2 ranks need [\d,]+ TiB of memory"),
        (10**40, "auto", None, r"buffers of 2 ranks need [\d,]+ TiB of memory"),
        # each rank's buffer would fit, both do not; and the rank that sees least counts
        (
            2000,
            "collective",
            [{"memory": 10**9, "shared": 10**9}, {"memory": 8 * 10**5, "shared": 10**9}],
            "of 2 ranks",
        ),
        (2000, "shared", [{"memory": 10**9, "shared": 2 * 10**5}] * 2, "exchange=shared: .* /dev/shm has 195.3 KiB"),
    ],
    ids=["collective", "shared", "huge", "together", "small /dev/shm"],
)
def test_too_large_a_capacity_is_refused_on_all_ranks_before_anything_is_allocated(capacity, exchange, free, message):
    first, second = run_ranks(too_large, 2, capacity, exchange, free)
    assert first == second
    with pytest.raises(ValueError, match=message):
        raise ValueError(first)


def test_nodes_are_looked_at_one_by_one():
    needed = [{"rows": 60}, {"rows": 60}, {"rows": 60, "shared": 50}]
    free = [{"memory": 130, "shared": 0}, {"memory": 125, "shared": 0}, {"memory": 70, "shared": 50}]
    require_room(needed, free, ["a", "a", "b"])
    with pytest.raises(ValueError, match="buffers of 2 ranks need .* on a; .*fewer ranks per node"):
        require_room(needed, [free[0], {"memory": 119, "shared": 0}, free[2]], ["a", "a", "b"])
    with pytest.raises(ValueError, match="the rehearsal buffer needs .* on b"):
        require_room(needed, [*free[:2], {"memory": 59, "shared": 50}], ["a", "a", "b"])
    with pytest.raises(ValueError, match="shared memory, /dev/shm has .* on b"):
        require_room(needed, [*free[:2], {"memory": 70, "shared": 49}], ["a", "a", "b"])
    with pytest.raises(ValueError, match="needs [0-9,]+ TiB"):
        require_room([{"rows": 10**30}], [{"memory": 1, "shared": 1}], ["a"])


def what_is_said_of_two_lengths(rank, world_size):
    tokens = torch.zeros(4, 37 + 4 * rank, dtype=torch.int64)  # each rank has padded its own minibatch
    minibatch = {"tokens": tokens, "label": torch.zeros(4, dtype=torch.int64), "sample_id": torch.arange(4) + 4 * rank}
    rehearsal = Rehearsal(20, 4, verbose=False)
    with pytest.raises(ValueError, match="the ranks disagree on the record's field 'tokens'") as refused:
        rehearsal.extend(minibatch)
    return str(refused.value)


def test_minibatches_padded_to_different_lengths_are_told_apart_from_other_settings():
    for line in run_ranks(what_is_said_of_two_lengths, 2):
        assert line.endswith("pad samples to the same length on all ranks, or give the schema as spec=")
