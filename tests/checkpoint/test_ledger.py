"""`drb audit` names what each optimisation step of a run was trained on, after kills and on another number of ranks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ranks import run_cases

from drb.checkpoint import CheckpointSettings
from drb.runs.ledger import read_ledger
from drb.runs.rehearsed import RehearsalLedger

JOBS: dict[str, dict[str, Any]] = {  # 6 and 11 steps a task
    "accumulating": {"training": {"accumulate": 2, "clip_norm": 1.0}, "terms": []},
    "reviewing": {
        "rehearsal": {"admission": "class_balanced", "proportions": "balanced", "depth": 2},
        "training": {"epochs": 1},
        "terms": ["final_review"],
    },
}
SAVED = (5, 9)


def train(rank: int, world_size: int, folder: str, job: dict[str, Any], kill_at: int | None) -> dict[int, Any]:
    """By optimisation step, what this rank was given in it."""
    from checkpoint.runs import run

    from drb.rehearsal.rehearsal import Rehearsal
    from drb.training.phases import PhaseTrainer
    from drb.training.terms import TERMS

    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # no machine crashes here
    seen: dict[int, tuple[list[int], list[int]]] = {}
    number, extend, take_step = 0, Rehearsal.extend, PhaseTrainer._optimisation_step

    def stepping(self: PhaseTrainer, *args: Any) -> None:
        nonlocal number
        number = self._progress.steps + 1
        if number == kill_at:
            raise KeyboardInterrupt
        take_step(self, *args)

    def recording(self: Rehearsal, minibatch: Any) -> Any:
        batch = extend(self, minibatch)
        ids, rehearsed = batch["sample_id"].numpy(), batch["rehearsed"].numpy()
        new, drawn = seen.setdefault(number, ([], []))
        new += ids[~rehearsed].tolist()
        drawn += ids[rehearsed].tolist()
        return batch

    Rehearsal.extend, PhaseTrainer._optimisation_step = recording, stepping  # type: ignore[method-assign]
    settings = CheckpointSettings(every_steps=1, keep_last=2, signals=[])
    options = {**job, "terms": [TERMS.build(term) for term in job["terms"]], "save_at": SAVED, "ledger": True}
    try:
        run(rank, world_size, Path(folder), settings, options)
    except KeyboardInterrupt:
        assert number == kill_at
    finally:
        Rehearsal.extend, PhaseTrainer._optimisation_step = extend, take_step  # type: ignore[method-assign]
    return seen


def audited(root: str, world_sizes: tuple[int, ...], names: list[str]) -> None:
    seen: dict[str, dict[int, list[Any]]] = {name: {} for name in names}
    for world_size, kill_at in zip(world_sizes, (8, 12, None), strict=True):
        cases = {name: (str(Path(root, name)), JOBS[name], kill_at) for name in names}
        for name, of_ranks in run_cases(train, world_size, cases, timeout=100).items():
            seen[name] |= {step: [own[step] for own in of_ranks] for step in of_ranks[0]}
    for name in names:
        ledger = read_ledger(Path(root, name))
        assert isinstance(ledger, RehearsalLedger)
        assert sorted(seen[name]) == list(range(1, ledger.steps + 1))
        for step, of_ranks in seen[name].items():
            trained = ledger.trained(step)
            assert sorted(trained.new.tolist()) == sorted(i for new, _ in of_ranks for i in new), (name, step)
            assert sorted(trained.rehearsed.tolist()) == sorted(i for _, ids in of_ranks for i in ids), (name, step)
        one = int(trained.rehearsed[0])
        steps = [step for step, of in sorted(seen[name].items()) if any(one in (*new, *ids) for new, ids in of)]
        assert ledger.sample(str(one)) == (steps, ledger.seen_by(steps))
        assert [steps[0] <= int(path.split("-")[1]) for path in ledger.checkpoints] == [
            path in ledger.seen_by(steps) for path in ledger.checkpoints
        ]


@pytest.mark.parametrize(
    "world_sizes",
    [(2, 2, 1), *(pytest.param(w, marks=pytest.mark.full) for w in ((1, 1, 3), (3, 2, 2), (1, 2, 4)))],
)
def test_every_step_is_named(world_sizes):
    with tempfile.TemporaryDirectory() as root:
        audited(root, world_sizes, list(JOBS))
