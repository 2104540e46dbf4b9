"""The ledger names what every step was given, as a recorder in the loop saw it, after kills and on other ranks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_cases
from samples import logits_of, minibatch_of

from drb import Rehearsal
from drb.buffer.record import Field
from drb.rehearsal.ledger.file import LedgerWriter, cut
from drb.rehearsal.ledger.recorder import Recorder
from drb.runs.rehearsed import read_rehearsal_ledger

LATE = {"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ()), "logits": Field(torch.float32, (3,), late=True)}
METHODS: dict[str, dict[str, Any]] = {
    "reservoir": {},
    "der++": {"spec": LATE, "draws": 2},
    "class_balanced": {"admission": "class_balanced", "proportions": "balanced", "depth": 2, "interval": 3},
    "fifo": {"admission": "fifo", "proportions": "stream", "interval": 2},
    "mean_matching": {"admission": "mean_matching", "max_age": 9},
}
EXEMPLARS, ROWS, SAMPLES = 5, 24, 300
KILLED, LAST = (20, 33), 46  # after these steps there is a checkpoint, and soon after it a kill


def offered_in(step: int, rank: int, world_size: int) -> np.ndarray:
    """A rank's part of a minibatch of all ranks: its own samples, sometimes none."""
    ids = np.random.default_rng((7, step)).choice(SAMPLES, ROWS, replace=False)
    return ids[ids % world_size == rank] if step % 11 != 10 else ids[:0]


def train(rank: int, world_size: int, folder: str, settings: Any, first: int, states: Any, last: int) -> dict[str, Any]:
    """Steps first … last - 1, with a checkpoint after step `last`; more steps, which are lost, if a kill follows."""
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # no machine crashes here
    recorder = Recorder(rounds_of_a_block=4, rounds_between_tables=8)
    writer = LedgerWriter(Path(folder), recorder, rank, first)
    seen: list[tuple[list[int], list[int]]] = []
    state = None
    with Rehearsal(20, EXEMPLARS, seed=3, verbose=False, batch_size=ROWS, **settings) as rehearsal:
        rehearsal.recorder = recorder
        if states is not None and len(states) == world_size:
            rehearsal.load_state_dict(states[rank])
        elif states is not None:
            rehearsal.load_state_dict(states, lambda ids: ids % world_size)
        for step in range(first, last if last == LAST else last + 6):
            if step in (9, 29):
                rehearsal.forget([step, 2 * step, 3 * step])
            ids = offered_in(step, rank, world_size)
            if "spec" in settings:
                exemplars = rehearsal.step(minibatch_of(ids))
                rehearsal.attach(logits=logits_of(ids))
                drawn = [] if exemplars is None else exemplars.sample_id.tolist()
            else:
                drawn = rehearsal.extend(minibatch_of(ids))["sample_id"][len(ids) :].tolist()
            seen.append((ids.tolist(), drawn))
            if step + 1 == last:
                state = rehearsal.state_dict()
            if step + 1 in (last, last + 4):  # what is logged later than the checkpoint is cut
                writer.take(step + 1)
                writer.write()
    return {"seen": seen[: last - first], "state": state}


def play(world_sizes: tuple[int, int, int], methods: list[str], root: str) -> dict[str, list[list[Any]]]:
    """Train with two kills; by method what the ranks saw in each step."""
    seen: dict[str, list[list[Any]]] = {method: [] for method in methods}
    states: dict[str, Any] = dict.fromkeys(methods)
    for world_size, first, last in zip(world_sizes, (0, *KILLED), (*KILLED, LAST), strict=True):
        cases = {}
        for method in methods:
            folder = Path(root, method)
            folder.mkdir(exist_ok=True)
            cut(folder, first)
            cases[method] = (str(folder), METHODS[method], first, states[method], last)
        for method, results in run_cases(train, world_size, cases, timeout=60).items():
            seen[method] += list(zip(*(result["seen"] for result in results), strict=True))
            states[method] = [result["state"] for result in results]
    return seen


@pytest.mark.parametrize(
    "world_sizes",
    [
        (2, 2, 3),
        pytest.param((1, 1, 1), marks=pytest.mark.full),
        pytest.param((3, 1, 2), marks=pytest.mark.full),
        pytest.param((1, 3, 3), marks=pytest.mark.full),
        pytest.param((4, 4, 2), marks=pytest.mark.full),
    ],
)
def test_the_ledger_names_what_each_step_was_given(world_sizes):
    with tempfile.TemporaryDirectory() as root:
        for method, steps in play(world_sizes, list(METHODS), root).items():
            ledger = read_rehearsal_ledger(Path(root, method))
            assert ledger.steps == LAST == len(steps)
            by_sample: dict[int, set[int]] = {}
            for number, of_ranks in enumerate(steps, 1):
                trained = ledger.trained(number)
                assert trained.new.tolist() == [i for new, _ in of_ranks for i in new], (method, number)
                assert trained.rehearsed.tolist() == [i for _, drawn in of_ranks for i in drawn], (method, number)
                for i in (*trained.new.tolist(), *trained.rehearsed.tolist()):
                    by_sample.setdefault(i, set()).add(number)
            assert ledger.steps_of([3, 58, 299]) == {i: sorted(by_sample.get(i, ())) for i in (3, 58, 299)}
            new = sum(len(ids) for of_ranks in steps for ids, _ in of_ranks)
            drawn = sum(len(ids) for of_ranks in steps for _, ids in of_ranks)
            lines = ledger.mixture()
            assert lines[0].startswith(f"new: {new} samples")
            assert lines[1].startswith(f"rehearsed: {drawn} samples")
