"""States handed out at random, over ranks, steps, runs, world sizes and process groups: what does not belong together
is refused on every rank before anything is trained on, and what does is stored once, all of it.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fuzz.told import CASES, refusal
from ranks import run_ranks
from rehearsal.ranks.streams import num_wrong, records

from drb import Rehearsal

WORLD = 3
GROUPS = {"all": (0, 1, 2), "first two": (0, 1), "last two": (1, 2)}


@dataclass(frozen=True)
class Key:
    """Which state: of a member of a group, in one of two runs, after some steps."""

    group: str
    run: int
    steps: int
    member: int


def offer(group: str, run: int, member: int, step: int) -> dict[str, torch.Tensor]:
    """Ids that no other member, run or group has."""
    start = 10_000 * list(GROUPS).index(group) + 1_000 * run
    return records([start + len(GROUPS[group]) * (4 * step + row) + member for row in range(4)])


def opened(group: dist.ProcessGroup | None) -> Rehearsal:
    return Rehearsal(60, 3, batch_size=4, process_group=group, timeout_s=20.0, verbose=False)


def make_states(rank: int, groups: dict[str, dist.ProcessGroup]) -> dict[Key, Any]:
    """Every rank gets all states."""
    own: dict[Key, Any] = {}
    for name, members in GROUPS.items():
        if rank not in members:
            continue
        member = members.index(rank)
        for run in (0, 1):
            with opened(groups[name]) as rehearsal:
                for step in range(5):
                    rehearsal.extend(offer(name, run, member, step))
                    if step >= 3:
                        own[Key(name, run, step, member)] = copy.deepcopy(rehearsal.state_dict())
    gathered: list[Any] = [None] * WORLD
    dist.all_gather_object(gathered, own)
    return {key: state for states in gathered for key, state in states.items()}


def ids_of(state: Any) -> list[int]:
    return state["buffer"]["columns"]["sample_id"].tolist()


def hand_out(rng: random.Random, target: str, keys: list[Key]) -> list[list[Key] | Key]:
    """What each member of the target group is given: right, or with one or two mistakes."""
    size, run, steps = len(GROUPS[target]), rng.randrange(2), rng.choice([3, 4])
    if rng.random() < 0.5:
        given: list[list[Key] | Key] = [Key(target, run, steps, member) for member in range(size)]
    else:
        source = rng.choice(list(GROUPS))
        given = [[Key(source, run, steps, member) for member in range(len(GROUPS[source]))] for _ in range(size)]
        if rng.random() < 0.7:  # one mistake in the list of all
            same = _mistaken(given[0], rng, keys)
            given = [list(same) for _ in range(size)]
    for _ in range(rng.choice([0, 0, 1, 2])):
        member = rng.randrange(size)
        mine = given[member]
        given[member] = _mistaken(mine, rng, keys) if isinstance(mine, list) else rng.choice(keys)
    return given


def _mistaken(given: Any, rng: random.Random, keys: list[Key]) -> list[Key]:
    changed, place = list(given), rng.randrange(len(given))
    kind = rng.randrange(5)
    if kind == 0:
        changed[place] = rng.choice(keys)
    elif kind == 1:
        rng.shuffle(changed)
    elif kind == 2:
        del changed[place]
    elif kind == 3:
        changed[place] = Key(**{**vars(changed[place]), "steps": 7 - changed[place].steps})
    else:
        changed.insert(place, changed[place])
    return changed


def is_right(given: list[list[Key] | Key], target: str) -> bool:
    """Whether all members go on from one moment of one run, each exemplar once."""
    if all(isinstance(key, Key) for key in given):
        one = given[0]
        return [*given] == [Key(target, one.run, one.steps, member) for member in range(len(given))]
    first = given[0]
    if not isinstance(first, list) or not first or any(other != first for other in given):
        return False
    one = first[0]
    if len(first) == len(GROUPS[target]) and one.group != target:  # nobody asked to divide them anew
        return False
    return first == [Key(one.group, one.run, one.steps, member) for member in range(len(GROUPS[one.group]))]


def fuzz(rank: int, world_size: int, seed: int, num_cases: int) -> tuple[int, int]:
    """How many cases went on, and how many were refused."""
    groups = {name: dist.new_group(list(members)) for name, members in GROUPS.items()}
    states = make_states(rank, groups)
    rng, keys = random.Random(seed), sorted(states, key=str)
    went_on, refused = 0, 0
    for case in range(num_cases):
        target = rng.choice(list(GROUPS))
        given = hand_out(rng, target, keys)
        if rank not in GROUPS[target]:
            continue
        member, right = GROUPS[target].index(rank), is_right(given, target)
        size = len(given)
        mine = given[member]
        state = [states[key] for key in mine] if isinstance(mine, list) else states[mine]
        rehearsal = opened(groups[target])
        message = refusal(lambda: rehearsal.load_state_dict(state, lambda ids: ids % size))  # noqa: B023
        told: list[Any] = [None] * size
        dist.all_gather_object(told, message, group=groups[target])
        batch: dict[str, torch.Tensor] = {}
        if told == [None] * size:
            nothing = {name: values[:0] for name, values in offer(target, 0, member, 0).items()}
            message = refusal(lambda: batch.update(rehearsal.extend(nothing)))  # noqa: B023
            dist.all_gather_object(told, message, group=groups[target])
        problem = ""
        if (told == [None] * size) != right:
            problem = f"right: {right}, but the ranks were told {told}"
        elif right:
            stored: list[Any] = [None] * size
            dist.all_gather_object(stored, rehearsal.sample_ids().tolist(), group=groups[target])
            used = mine if isinstance(mine, list) else [key for key in given if isinstance(key, Key)]
            if sorted(i for ids in stored for i in ids) != sorted(i for key in used for i in ids_of(states[key])):
                problem = "other exemplars are stored"
            elif num_wrong(batch) or not batch["rehearsed"].all() or len(batch["rehearsed"]) != 3:
                problem = "wrong exemplars are drawn"
        went_on, refused = went_on + right, refused + (not right)
        if right and not problem:
            rehearsal.close()
        assert not problem, f"case {case}, {target}: {given}: {problem}"
    return went_on, refused


@pytest.mark.timeout(150)
@pytest.mark.parametrize("seed", [8, pytest.param(18, marks=pytest.mark.full)])
def test_states_that_do_not_belong_together_are_refused(seed):
    results = run_ranks(fuzz, WORLD, seed, CASES["states astray"], timeout=140)
    for went_on, refused in results:
        assert went_on > CASES["states astray"] / 10
        assert refused > CASES["states astray"] / 4
