"""Only rows that changed are written, and every checkpoint is complete in itself."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals, read_rank_states, rewrite_checkpoint
from drb.checkpoint.shards import MOST_SHARDS, RowShards, StoredRows
from drb.distributed.world import World
from drb.rehearsal.rehearsal import Rehearsal
from drb.runs.verification import verify

B, CAPACITY = 8, 96


@pytest.fixture(autouse=True)
def no_machine_crashes_here(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Run:
    """One rank that trains on nothing and is saved now and then."""

    def __init__(self, folder: Path, admission: str = "reservoir", **settings) -> None:
        settings = {"every_steps": 1, "keep_last": 3, "signals": []} | settings
        self.saver = Checkpointer(CheckpointSettings(**settings), folder, World(), signals=StopSignals([]))
        self.saver.begin_task(0)
        candidates = 4 if admission == "random_replacement" else None
        self.rehearsal = Rehearsal(
            CAPACITY, 1, admission=admission, candidates=candidates, verbose=False, asynchronous=False
        )
        self.root = folder / "checkpoints"
        self.steps = self.saves = 0
        self.expected: dict[str, np.ndarray] = {}

    def train(self, steps: int) -> None:
        for _ in range(steps):
            ids = torch.arange(self.steps * B, (self.steps + 1) * B)
            image = torch.randint(0, 255, (B, 3, 64, 64), dtype=torch.uint8)
            self.rehearsal.extend({"image": image, "label": ids % 5, "sample_id": ids})
            self.steps += 1

    def save(self) -> tuple[int, int]:
        """Bytes that were written, and bytes of rows that were in no checkpoint before."""
        self.saves += 1
        state = {"trainer": {}, "model": {"w": torch.ones(3)}, "optimizer": {}}
        before = self.saver.tally.bytes
        rows = self.rehearsal.state_dict()["buffer"]["rows"]
        self.saver.visit(self.saves, lambda: {**state, "rank": {"rehearsal": self.rehearsal.state_dict(lazy=True)}})
        self.saver.finish()
        known = self.known if hasattr(self, "known") else set()
        self.known = {row.tobytes() for row in rows}
        self.expected[f"step-{self.saves:010d}"] = rows
        return self.saver.tally.bytes - before, 8 * rows.shape[1] * len(self.known - known)

    def check(self) -> None:
        for path in self.root.iterdir():
            (state,) = read_rank_states(path)
            np.testing.assert_array_equal(state["rehearsal"]["buffer"]["rows"][:], self.expected[path.name])
            verify(path)


@pytest.mark.parametrize("admission", ["reservoir", "fifo", "random_replacement"])
def test_less_than_twice_the_changed_rows_is_written(tmp_path, admission):
    run = Run(tmp_path, admission)
    run.train(CAPACITY // B + 4)
    run.save()
    written = changed = 0
    for _ in range(14):
        run.train(2)
        new_bytes, new_rows = run.save()
        written, changed = written + new_bytes, changed + new_rows
        run.check()
    assert 0 < changed < written < 2 * changed


def test_a_buffer_that_did_not_change_costs_almost_nothing(tmp_path):
    run = Run(tmp_path)
    run.train(30)
    first, _ = run.save()
    second, changed = run.save()
    assert changed == 0
    assert second < first / 10
    shards = [path.name for path in (run.root / "step-0000000002").iterdir() if ".rows-" in path.name]
    assert all(os.path.samefile(run.root / f"step-000000000{n}" / name, run.root / f"step-0000000001/{name}")
               for n in (1, 2) for name in shards)  # fmt: skip
    shutil.rmtree(run.root / "step-0000000001")
    run.check()


def test_incremental_off_writes_everything_each_time(tmp_path):
    run = Run(tmp_path, incremental=False)
    run.train(30)
    first, _ = run.save()
    second, _ = run.save()
    assert abs(second - first) < 100  # digits of times
    assert all(path.stat().st_nlink == 1 for path in run.root.rglob("*.safetensors"))


def test_files_stay_few_and_at_most_twice_the_buffer(tmp_path):
    run = Run(tmp_path, "random_replacement", keep_last=1)
    run.train(CAPACITY // B + 4)
    row_bytes = 0
    for _ in range(3 * MOST_SHARDS):
        run.train(1)
        run.save()
        shards = [*run.root.rglob("*.rows-*.safetensors")]
        row_bytes = 8 * next(iter(run.expected.values())).shape[1]
        assert len(shards) <= MOST_SHARDS
        assert sum(path.stat().st_size for path in shards) < 2.2 * (CAPACITY + B) * row_bytes
    run.check()


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def no_links(*_) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    run = Run(tmp_path)
    run.train(20)
    run.save()
    run.train(1)
    run.save()
    run.check()
    assert all(path.stat().st_nlink == 1 for path in run.root.rglob("*.safetensors"))


@pytest.mark.parametrize("how", ["deleted", "rewritten"])
def test_if_the_checkpoint_before_is_gone_the_rows_are_written_from_memory(tmp_path, how):
    run = Run(tmp_path)
    run.train(20)
    run.save()
    first = run.root / "step-0000000001"
    if how == "deleted":
        shutil.rmtree(first)
    else:
        rewrite_checkpoint(first, lambda rank, state: state)
    run.train(1)
    run.save()
    run.check()


def test_rows_of_unknown_versions_are_all_written(tmp_path):
    rows = np.arange(60).reshape(12, 5)
    shards = RowShards("rank-00000")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        table = shards.write(tmp_path / name, tmp_path / name, StoredRows.of(rows), None)
        assert table.new_bytes > rows.nbytes
        assert len(list((tmp_path / name).iterdir())) == len(table.shards) == 1
