"""A run that is killed in any phase, also three times in a row, ends bit for bit as one that nothing broke."""

from __future__ import annotations

import itertools
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from ranks import collect_ranks, run_ranks

from drb.checkpoint import CheckpointSettings
from drb.training.terms.term import Term
from faults.injection import find_place

SGD: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}}
ADAM: dict[str, Any] = {"optimizer": {"name": "adam", "lr": 0.01}, "rehearsal": {"exchange": "collective"}}

# phase -> what is called in it, and the rank that is killed there
PHASES = {
    "first step": ("drb.rehearsal.rehearsal:Rehearsal.extend", 1),
    "update": ("torch:Tensor.backward", 0),
    "checkpoint write": ("drb.checkpoint.writing:write_part", 1),
    "checkpoint name": ("drb.checkpoint.directory:CheckpointDirectory.publish", 0),
    "task begin": ("drb.training.networks:Networks.begin_task", 1),
    "task end": ("drb.training.loop:Trainer._finish", 0),
    "evaluation": ("drb.training.evaluation.scores:Scores.after", 1),
    "edit": ("drb.rehearsal.edit:Edit.remove", 1),
    "resume": ("drb.rehearsal.running:Running.load_state_dict", 1),
    "reading": ("drb.checkpoint.finding:read_part", 0),
}


class Pruning(Term):
    """Removes some exemplars of each task when it ends."""

    name = "pruning"

    def end_task(self, task: Any) -> None:
        with task.edit() as edit:
            edit.remove(edit.sample_ids[::4].copy())


def train(rank: int, world_size: int, folder: str, options: dict[str, Any], kill: tuple[str, int] | None) -> dict:
    """Go on with the run, on a machine where a rank is killed in the n-th call of a phase's function."""
    from checkpoint.runs import run

    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # no machine crashes here
    if kill is not None and rank == PHASES[kill[0]][1]:
        _arm(PHASES[kill[0]][0], kill[1])
    settings = CheckpointSettings(every_steps=1, signals=[])
    options = {"save_at": range(2, 40, 3), "terms": [Pruning()], **options}
    result = run(rank, world_size, Path(folder), settings, options)
    del result["losses"]  # those after the resume
    return result


def _arm(place: str, call: int) -> None:
    owner, name, original = find_place(place)
    calls = itertools.count(1)

    def killing(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)

    setattr(owner, name, killing)


def check(folder: Path, options: dict[str, Any], kills: list[tuple[str, int]], *, all_strike: bool = True) -> None:
    """Kill the run at each of these, one after the other, and compare what it ends with.

    all_strike: every phase is reached; otherwise a start in which none is killed runs to the end.
    """
    expected = run_ranks(train, 2, str(folder / "never"), options, None, timeout=60)
    for kill in kills:
        _, failures = collect_ranks(train, 2, str(folder / "run"), options, kill, timeout=60)
        victim = PHASES[kill[0]][1]
        struck = failures.get(victim) == "died with exit code -9"
        assert struck or not (failures or all_strike), (kill, failures)
    assert run_ranks(train, 2, str(folder / "run"), options, None, timeout=60) == expected


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("options", "kills"),
    [
        (SGD, [("first step", 1), ("checkpoint write", 7), ("edit", 1), ("resume", 1), ("evaluation", 1)]),
        (
            ADAM,
            [("update", 8), ("resume", 1), ("reading", 1), ("task end", 1), ("checkpoint name", 2), ("edit", 1)],
        ),
    ],
    ids=["momentum", "adam"],
)
def test_a_run_that_is_killed_in_every_phase_ends_as_one_that_never_was(tmp_path, options, kills):
    check(tmp_path, options, kills)


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(8))
def test_chains_of_random_kills_end_as_a_run_that_nothing_broke(tmp_path, seed):
    rng = random.Random(seed)
    kills = [("update", rng.randint(1, 12))]
    kills += [(rng.choice(sorted(PHASES)), 1) for _ in range(3)]
    check(tmp_path, rng.choice([SGD, ADAM]), kills, all_strike=False)
