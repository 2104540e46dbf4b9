"""A run that goes on with another number of ranks, inside epochs: 4 → 2 → 3, and down to almost nothing left."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks import run_ranks

from drb.checkpoint import CheckpointSettings

ALL = 198  # samples of the stream: 3 tasks of 66


def train(
    rank: int, world_size: int, folder: str, resume: str | None, name: str, options: dict[str, Any]
) -> dict[str, Any]:
    """As `checkpoint.runs.run`; also what each step was given and said."""
    from checkpoint.runs import run

    from drb.rehearsal.rehearsal import Rehearsal
    from drb.training import Monitor

    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # no machine crashes here
    steps: list[tuple[list[int], list[int]]] = []
    lines: list[str] = []
    extend = Rehearsal.extend

    def recording(self: Rehearsal, minibatch: Any) -> Any:
        batch = extend(self, minibatch)
        ids = batch["sample_id"].numpy()
        rehearsed = batch["rehearsed"].numpy()
        steps.append((ids[~rehearsed].tolist(), ids[rehearsed].tolist()))
        return batch

    Rehearsal.extend = recording  # type: ignore[method-assign]
    Monitor.say = lambda self, line: lines.append(line)  # type: ignore[method-assign]
    settings = CheckpointSettings(
        every_steps=1, keep_last=1000, signals=[], resume="never" if resume is None else str(Path(folder, resume))
    )
    result = run(rank, world_size, Path(folder, name), settings, options)
    return {**result, "seen": steps, "lines": lines}


def checkpoint(name: str, step: int) -> str:
    return f"{name}/checkpoints/step-{step:010d}"


def ids_of(results: list[dict[str, Any]], start: int, stop: int | None) -> list[int]:
    return [i for result in results for ids, _ in result["seen"][start:stop] for i in ids]


def test_4_2_3_within_one_epoch_every_sample_is_seen_once():
    options = {
        "model": "batch_norm",
        "training": {"batch_size": 3, "log_every": 2, "epochs": 1},
        "rehearsal": {"batch_size": 4, "capacity": 12},
        "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "lr_scaling": "linear"},
    }  # 6 steps an epoch on 4 ranks
    with tempfile.TemporaryDirectory() as folder:
        four = run_ranks(train, 4, folder, None, "four", options | {"save_at": (8,)}, timeout=100)
        two = run_ranks(train, 2, folder, checkpoint("four", 8), "two", options | {"save_at": (11,)}, timeout=100)
        three = run_ranks(train, 3, folder, checkpoint("two", 11), "three", options, timeout=100)
        ended = checkpoint("three", three[0]["steps"][0]) + "-evaluated"
        alone = run_ranks(train, 1, folder, ended, "alone", options, timeout=100)
    # 6 steps of task 0 and 2 of task 1 on four ranks, 3 on two
    seen = Counter(ids_of(four, 0, 8) + ids_of(two, 0, 3) + ids_of(three, 0, None))
    assert seen == dict.fromkeys(range(ALL), 1)
    for results, before in ((two, 4), (three, 2)):
        assert len({len(result["seen"]) for result in results}) == 1
        assert all(len(set(drawn)) == 3 for result in results for _, drawn in result["seen"])  # from the first on
        assert results[0]["steps"][1] == ALL
        ids = [i for result in results for i in result["ids"]]
        assert len(set(ids)) == len(ids)
        assert len({result["weights"] for result in results}) == 1
        (line,) = results[0]["lines"]
        now, b, lr = len(results), 3, 0.02
        assert line.startswith(
            f"resumed on {now} ranks from {before}: global batch {before * b} → {now * b}, "
            f"learning rate {before * lr:g} → {now * lr:g}, "
        )
        dropped, stored = [int(word) for word in line.split() if word.isdigit()][-2:]
        assert stored == 12 * before
        assert (dropped > 0) == (now == 2)
    assert alone[0]["seen"] == []  # the stream was over
    assert alone[0]["steps"] == three[0]["steps"]
    assert alone[0]["lines"][0].startswith("resumed on 1 rank from 3")


@pytest.mark.parametrize(
    ("strategy", "saved"),
    [("er", (16, 17)), ("finetune", (16,)), pytest.param("finetune", (17,), marks=pytest.mark.full)],
)
def test_fewer_samples_than_ranks_are_left_or_none(strategy, saved):
    options = {
        "model": "batch_norm",
        "strategy": strategy,
        "training": {"batch_size": 4, "epochs": 1, "log_every": 1},
        "rehearsal": {"batch_size": 5, "capacity": 12},
    }
    with tempfile.TemporaryDirectory() as folder:
        one = run_ranks(train, 1, folder, None, "one", options | {"save_at": saved}, timeout=100)
        for step in saved:  # 2 samples left, and none
            four = run_ranks(train, 4, folder, checkpoint("one", step), f"four {step}", options, timeout=100)
            assert four[0]["steps"][1] == ALL
            assert all(np.isfinite(loss) for loss, _ in four[0]["losses"].values())
            assert len({result["weights"] for result in four}) == 1
            if strategy == "er":
                assert Counter(ids_of(one, 0, step) + ids_of(four, 0, None)) == dict.fromkeys(range(ALL), 1)
                assert any(not ids for result in four for ids, _ in result["seen"]) == (step == 16)
