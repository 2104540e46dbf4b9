"""`Rehearsal.edit` on real ranks: what is written is what every rank rehearses next, on every engine and exchange."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch
from ranks import collect_ranks, run_ranks
from rehearsal.ranks.edited import SPEC, OnNodes, make, train, version
from rehearsal.ranks.streams import ids_of_rank, num_wrong, records

from drb import Rehearsal
from drb.buffer.codecs import Bits
from drb.buffer.record import Field


def gather(value, world_size):
    if world_size == 1:
        return [value]
    values = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def edit_some(rank, world_size, kind, options):
    """Refresh all logits, remove a third, insert others; a hash of all that was seen."""
    seen = hashlib.sha256()
    with make(kind, **options) as rehearsal:
        train(rehearsal, rank, world_size, range(8), seen, 0)
        before = rehearsal.sample_ids()
        with rehearsal.edit() as edit:
            read = 0
            for stored in edit.stored("image", "label", "logits", rows=5):
                assert num_wrong({**stored.fields, "sample_id": stored.sample_id}) == 0
                assert torch.equal(stored.fields["logits"], version(stored.sample_id, 0))
                edit.rewrite("logits", version(stored.sample_id, 1), stored.sample_id)
                edit.rewrite("features", stored.sample_id[:, None].float().repeat(1, 6), stored.sample_id)
                read += len(stored)
            assert read == len(before) > 9
            gone = before[:: 2 + rank]
            assert edit.remove([*gone.tolist(), -7]) == len(gone)
            extra = records(np.arange(3) * world_size + rank + 10_000_000)
            edit.insert({**extra, "logits": version(extra["sample_id"], 1)}, keys=[0, 1, 2])
            edit.insert({**extra, "logits": version(extra["sample_id"], 1)})  # they are there
        left = (set(before.tolist()) - set(gone.tolist())) | set(extra["sample_id"].tolist())
        assert set(rehearsal.sample_ids().tolist()) == left
        union = set(np.concatenate(gather(rehearsal.sample_ids(), world_size)).tolist())
        minibatch = records(ids_of_rank(rank, world_size, 54)[48:])
        exemplars = rehearsal.step(minibatch)
        assert set(exemplars.sample_id.tolist()) <= union
        assert (exemplars.fields["logits"] == version(exemplars.sample_id, 1)).all()
        rehearsal.attach(logits=version(minibatch["sample_id"], 0))
        return seen.hexdigest(), sorted(rehearsal.sample_ids().tolist()), exemplars.sample_id.tolist()


def variants(rank, world_size, kinds):
    return [edit_some(rank, world_size, kind, options) for kind, options in kinds]


AHEAD = {"depth": 2, "interval": 3, "draws": 2}


OTHER = {"admission": "class_balanced", "proportions": "balanced"}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_edit_shows_in_the_next_step_on_every_engine_and_exchange(world_size):
    exchanges = {1: ["auto"], 2: ["collective", "shared"], 4: ["collective", "hierarchical"]}[world_size]
    kind = OnNodes if world_size == 4 else Rehearsal
    groups = [{}, AHEAD, OTHER, {"admission": "fifo"}, {"admission": "random_replacement", "candidates": 4}]
    groups = groups[: 2 if world_size == 4 else 5]
    kinds = [
        (kind, {"asynchronous": asynchronous, "exchange": exchange, **group})
        for group in groups
        for exchange in exchanges
        for asynchronous in (False, True)
    ]
    size = len(kinds) // len(groups)
    for results in run_ranks(variants, world_size, kinds, timeout=120):
        for start in range(0, len(kinds), size):
            assert all(result == results[start] for result in results[start : start + size])


def look_only(rank, world_size):
    """An edit in which nothing changes on any rank is no edit."""
    digests = []
    for looks in (False, True):
        seen = hashlib.sha256()
        with make(asynchronous=True) as rehearsal:
            train(rehearsal, rank, world_size, range(6), seen, 0)
            if looks:
                with rehearsal.edit() as edit:
                    assert sum(map(len, edit.stored())) == len(edit.sample_ids)
                    assert edit.remove([-1]) == 0
            for step in range(6, 12):
                minibatch = records(ids_of_rank(rank, world_size, 6 * (step + 1))[6 * step :])
                seen.update(rehearsal.step(minibatch).sample_id.numpy().tobytes())
                rehearsal.attach(logits=version(minibatch["sample_id"], 0))
            digests.append(seen.hexdigest())
    assert digests[0] == digests[1]


def spill(rank, world_size):
    """Rank 0 inserts more than it holds: the rest goes where room is, with all fields and keys; nothing comes twice."""
    spec = {**SPEC, "image": Field(torch.uint8, (1, 2, 24), codec=Bits(bits=4))}
    with make(spec=spec, capacity=21, capacity_scope="total", exchange="shared") as rehearsal:
        rehearsal.step(records(ids_of_rank(rank, world_size, 4)))
        rehearsal.attach(logits=torch.zeros(4, 3))
        with rehearsal.edit() as edit:
            edit.remove(edit.sample_ids)
            if rank == 0:
                many = records(range(100, 120))
                edit.insert({**many, "logits": version(many["sample_id"], 2)}, keys=np.arange(20))
        counts = gather(len(rehearsal.sample_ids()), world_size)
        assert counts == [11, 9]
        assert sorted(np.concatenate(gather(rehearsal.sample_ids(), world_size)).tolist()) == list(range(100, 120))
        with rehearsal.edit() as edit:
            (stored,) = edit.stored("image", "logits")
            assert (stored.key.astype(np.int64) + 100 == stored.sample_id.numpy()).all()
            assert torch.equal(stored.fields["logits"], version(stored.sample_id, 2))
            exact = records(stored.sample_id)["image"]
            assert torch.equal(stored.fields["image"], ((exact.int() * 15 + 127) // 255 * 17).byte())
        with (
            pytest.raises(ValueError, match=r"5 exemplars were inserted .* \(there is room for 0"),
            rehearsal.edit() as edit,
        ):
            more = records(range(200 + 10 * rank, 203 + 10 * rank))
            edit.insert({**more, "logits": version(more["sample_id"], 2)})
        rehearsal.step(records([]))


def refusals(rank, world_size):
    with make() as rehearsal:
        with pytest.raises(ValueError, match=r"edit\(\) needs a first minibatch"):
            rehearsal.edit()
        seen = hashlib.sha256()
        train(rehearsal, rank, world_size, range(4), seen, 0)
        minibatch = records(ids_of_rank(rank, world_size, 30)[24:])
        rehearsal.step(minibatch)
        with pytest.raises(ValueError, match=r"lacks its late fields: call edit\(\) after attach"), rehearsal.edit():
            pass
        rehearsal.attach(logits=version(minibatch["sample_id"], 0))
        with rehearsal.edit() as edit:
            for call in (
                lambda: rehearsal.step(minibatch),
                lambda: rehearsal.attach(logits=torch.zeros(6, 3)),
                lambda: rehearsal.forget([1]),
                lambda: rehearsal.state_dict(),
                lambda: rehearsal.edit().__enter__(),
            ):
                with pytest.raises(ValueError, match="the rehearsal is being edited: leave"):
                    call()
            ids = edit.sample_ids
            for call, message in (
                (lambda: edit.rewrite("colour", torch.zeros(1)), "no field 'colour'; they have"),
                (lambda: edit.rewrite("label", torch.zeros(len(ids)).long()), "counted by the field 'label'"),
                (lambda: edit.rewrite("logits", torch.zeros(len(ids), 2)), r"'logits' is float32\[3\] late a sample"),
                (lambda: edit.rewrite("logits", torch.zeros(1, 3), [-4]), "sample -4 is not stored on this rank"),
                (lambda: edit.rewrite("logits", torch.zeros(2, 3), [ids[0], ids[0]]), "a sample id twice"),
                (lambda: edit.insert(records([5])), r"late fields must have .*missing: \['logits'\]"),
                (lambda: edit.insert({**records([5]), "logits": torch.zeros(1, 3)}, keys=[-1]), "integers from 0 on"),
                (lambda: list(edit.stored(rows=0)), "rows must be at least 1"),
                (lambda: list(edit.stored("colour")), "no field 'colour'"),
                (
                    lambda: [edit.remove(part.sample_id) for part in edit.stored(rows=2)],
                    "while stored",
                ),
            ):
                with pytest.raises(ValueError, match=message):
                    call()
        with pytest.raises(ValueError, match="this edit is over"):
            edit.remove([1])
        for failing in (0, 1):
            message = "not mine" if rank == failing else f"edit failed on rank {failing}: ValueError: not mine"
            with pytest.raises(ValueError, match=message), rehearsal.edit() as edit:
                edit.rewrite("logits", version(torch.from_numpy(edit.sample_ids), 3))
                if rank == failing:
                    raise ValueError("not mine")
        exemplars = rehearsal.step(minibatch)  # it goes on, with what was written before the error
        assert torch.equal(exemplars.fields["logits"], version(exemplars.sample_id, 3))
        rehearsal.attach(logits=torch.zeros(6, 3))


def with_an_open_checkpoint(rank, world_size):
    """A lazy state that is read after an edit has what was there before; a state of the edited one goes on like it."""
    seen, again = hashlib.sha256(), hashlib.sha256()
    with make() as rehearsal:
        train(rehearsal, rank, world_size, range(8), seen, 0)
        eager, lazy = rehearsal.state_dict(), rehearsal.state_dict(lazy=True)
        with rehearsal.edit() as edit:
            edit.rewrite("logits", version(torch.from_numpy(edit.sample_ids), 1))
            edit.remove(edit.sample_ids[::3])
        assert (lazy["buffer"]["rows"][:] == eager["buffer"]["rows"]).all()
        lazy["buffer"]["rows"].close()
        edited = rehearsal.state_dict()
        train(rehearsal, rank, world_size, range(8, 14), seen := hashlib.sha256(), 1)
    with make() as resumed:
        resumed.load_state_dict(edited)
        train(resumed, rank, world_size, range(8, 14), again, 1)
    assert seen.hexdigest() == again.hexdigest()


def in_turn(rank, world_size):
    for case in (look_only, spill, refusals, with_an_open_checkpoint):
        case(rank, world_size)


def test_looking_spilling_refusing_and_checkpoints():
    run_ranks(in_turn, 2, timeout=90)


def leave_by_interrupt(rank, world_size):
    with pytest.raises((KeyboardInterrupt, Exception)), make(timeout_s=5.0) as rehearsal:
        train(rehearsal, rank, world_size, range(3), hashlib.sha256(), 0)
        with rehearsal.edit():
            if rank == 1:
                raise KeyboardInterrupt
    return True


def test_an_interrupt_in_an_edit_is_no_hang():
    results, failures = collect_ranks(leave_by_interrupt, 2, timeout=60)
    assert not failures
    assert results == {0: True, 1: True}


def edit_before_the_first_minibatch(rank, world_size):
    """What is drawn after an edit, where the run was stopped and resumed just before it and where it was not."""
    ids = torch.from_numpy(ids_of_rank(rank, world_size, 64))

    def go_on(rehearsal):
        with rehearsal.edit() as edit:
            removed = edit.sample_ids[::3].copy()
            edit.remove(removed)
        drawn = [rehearsal.extend(records(ids[8 * t : 8 * t + 8]))["sample_id"].tolist() for t in range(4, 8)]
        return removed.tolist(), drawn, rehearsal.sample_ids().tolist()

    settings = {"capacity": 20, "exemplars": 4, "batch_size": 8, "verbose": False}
    with Rehearsal(**settings) as rehearsal:
        for t in range(4):
            rehearsal.extend(records(ids[8 * t : 8 * t + 8]))
        state = copy.deepcopy(rehearsal.state_dict())
        expected = go_on(rehearsal)
    with Rehearsal(**settings) as fresh, pytest.raises(ValueError, match=r"edit\(\) needs a first minibatch"):
        fresh.edit()
    with Rehearsal(**settings) as resumed:
        resumed.load_state_dict(state)
        return expected, go_on(resumed)


def test_an_edit_may_come_before_the_first_minibatch_of_a_resumed_run():
    for expected, resumed in run_ranks(edit_before_the_first_minibatch, 2):
        assert expected == resumed
        assert expected[0]
