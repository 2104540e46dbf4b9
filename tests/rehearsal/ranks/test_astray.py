"""States handed to the wrong place: another rank's, run's, step's or group's are refused in one line on every rank."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ranks import run_ranks
from rehearsal.ranks.streams import num_wrong, records

from drb import OwnerSampler, Rehearsal
from drb.rehearsal.dcp import DcpState, read_dcp_states

SAMPLES = 200


def sampler(rank, world_size):
    return OwnerSampler(range(SAMPLES), seed=3, rank=rank, world_size=world_size, drop_last=True)


def offer(rank, world_size, step):
    own = torch.tensor(list(sampler(rank, world_size)))
    return records(own[torch.arange(8 * step, 8 * step + 8) % len(own)])


def trained(rank, world_size, steps=6, *, group=None, seed=0, **settings):
    """An open rehearsal after some steps."""
    rehearsal = Rehearsal(20, 4, seed=seed, process_group=group, batch_size=8, verbose=False, **settings)
    for step in range(steps):
        rehearsal.extend(offer(rank, world_size, step))
    return rehearsal


def state_after(*arguments, **settings):
    with trained(*arguments, **settings) as rehearsal:
        return copy.deepcopy(rehearsal.state_dict())


def refusal(state, rank, world_size, *, group=None, **options):
    """What loading a state, or the first step after it, says; None if it goes on."""
    with Rehearsal(20, 4, batch_size=8, process_group=group, verbose=False) as rehearsal:
        try:
            rehearsal.load_state_dict(state, **options)
            if group is None:
                rehearsal.extend(offer(rank, world_size, 9))
        except ValueError as error:
            return str(error)
    return None


def gathered(value):
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def hand_around(rank, world_size):
    """{case: what this rank was told}"""
    own = state_after(rank, world_size)
    states = gathered(own)
    longer = state_after(rank, world_size, 7)
    other = gathered(state_after(rank, world_size, seed=1, exchange="collective"))
    other = [{**state, "settings": own["settings"]} for state in other]
    owner_of = sampler(rank, world_size).owner_of
    told = {
        "its own": refusal(own, rank, world_size),
        "all of them": refusal(states, rank, world_size),
        "all of them, anew": refusal(states, rank, world_size, owner_of=owner_of, reshard=True),
        "all twisted": refusal(states[::-1], rank, world_size),
        "one twice": refusal([states[0]] * world_size, rank, world_size),
        "one of two": refusal(states[:1], rank, world_size),
        "two runs' list": refusal([states[0], other[1]], rank, world_size),
        "two steps": refusal(own if rank == 0 else longer, rank, world_size),
        "two runs": refusal(own if rank == 0 else other[rank], rank, world_size),
    }
    # rank 0's for all, as callbacks of Lightning and the like save it: the right rank has to wait for the others
    with Rehearsal(20, 4, batch_size=8, verbose=False) as rehearsal:
        try:
            rehearsal.load_state_dict(states[0])
            told["rank 0's"] = None
        except ValueError as error:
            told["rank 0's"] = str(error)
    groups = [dist.new_group([member]) for member in range(world_size)]
    alone = gathered(state_after(rank, world_size, group=groups[rank]))
    told["another group's"] = refusal(alone[1 - rank], rank, world_size, group=groups[rank])
    return told


def test_a_state_in_the_wrong_place_is_refused():
    first, second = run_ranks(hand_around, 2)
    for case in ("its own", "all of them", "all of them, anew"):
        assert first[case] is second[case] is None
    assert first["rank 0's"] is None
    assert "the state of rank 0 and this is rank 1: save the state of every rank" in second["rank 0's"]
    for case, message in {
        "all twisted": "states of ranks [1, 0]; give those of all ranks, by rank",
        "one twice": "states of ranks [0, 0]; give those of all ranks, by rank",
        "one of two": "these are 1 states of 2 ranks",
        "two runs' list": "the states of ranks 0 and 1 are of different runs",
        "two steps": "the ranks go on from different states: rank 0 from run",
        "two runs": "the ranks go on from different states: rank 0 from run",
    }.items():
        assert message in first[case], case
        assert message in second[case], case
    assert "after step 5, rank 1 from run" in first["two steps"]
    assert "process group of ranks [1], and this rehearsal's group has the ranks [0]" in first["another group's"]


def save_with_torch(rank, world_size, folder):
    with trained(rank, world_size) as rehearsal:
        state = copy.deepcopy(rehearsal.state_dict())
        dcp.save({"plain": {"buffer": rehearsal.state_dict()}, "rehearsal": DcpState(rehearsal)}, checkpoint_id=folder)
        expected = [rehearsal.extend(offer(rank, world_size, step))["sample_id"].clone() for step in range(6, 9)]
    with Rehearsal(20, 4, batch_size=8, verbose=False) as resumed:
        dcp.load({"rehearsal": DcpState(resumed)}, checkpoint_id=folder)
        seen = [resumed.extend(offer(rank, world_size, step))["sample_id"].clone() for step in range(6, 9)]
    plain = {"plain": {"buffer": copy.deepcopy(state)}}
    dcp.load(plain, checkpoint_id=folder)
    with Rehearsal(20, 4, batch_size=8, verbose=False) as wrong:
        try:
            wrong.load_state_dict(plain["plain"]["buffer"])
            message = None
        except ValueError as error:
            message = str(error)
    return all(map(torch.equal, expected, seen)), state["buffer"]["columns"]["sample_id"].tolist(), message


def reshard_from_torch(rank, world_size, folder):
    states = read_dcp_states(folder, "rehearsal")
    with Rehearsal(40, 4, batch_size=8, verbose=False) as rehearsal:
        rehearsal.load_state_dict(states, sampler(rank, world_size).owner_of)
        wrong = num_wrong(rehearsal.extend(offer(rank, world_size, 0)))
        return wrong, rehearsal.resharded, rehearsal.sample_ids().tolist()


@pytest.mark.filterwarnings("ignore")
def test_torchs_distributed_checkpoint_keeps_every_ranks_buffer(tmp_path):
    first, second = run_ranks(save_with_torch, 2, tmp_path)
    assert first[0]
    assert second[0]
    assert not set(first[1]) & set(second[1])
    assert second[2] is not None  # a plain dict is a mixture of all ranks'
    with pytest.raises(ValueError, match="has no rehearsal 'reh'"):
        read_dcp_states(tmp_path, "reh")
    (alone,) = run_ranks(reshard_from_torch, 1, tmp_path)
    assert alone[0] == 0
    assert set(first[1]) | set(second[1]) <= set(alone[2])
