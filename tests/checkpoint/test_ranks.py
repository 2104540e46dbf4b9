"""Ranks' states of a checkpoint for others: read lazily, and changed without a moment in which nothing is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals, read_rank_states, rewrite_checkpoint
from drb.checkpoint.shards import StoredRows
from drb.distributed.world import World
from drb.rehearsal.rehearsal import Rehearsal


def minibatch(first: int, rows: int = 8) -> dict[str, torch.Tensor]:
    ids = torch.arange(first, first + rows)
    return {"image": ids[:, None].repeat(1, 5).float(), "label": ids % 3, "sample_id": ids}


@pytest.fixture
def rehearsal():
    with Rehearsal(30, 4, seed=1, verbose=False, asynchronous=False) as made:
        for step in range(10):
            made.extend(minibatch(8 * step))
        yield made


@pytest.fixture
def checkpoint(rehearsal, tmp_path) -> Path:
    """Of one rank, with a rehearsal."""
    settings = CheckpointSettings(every_steps=1, signals=[])
    saver = Checkpointer(settings, tmp_path, World(), signals=StopSignals([]))
    saver.begin_task(0)
    own = {"rehearsal": rehearsal.state_dict(lazy=True), "loss_sum": torch.tensor(2.0)}
    saver.visit(1, lambda: {"trainer": {"steps": 1}, "model": {"w": torch.ones(2)}, "optimizer": {}, "rank": own})
    saver.finish()
    return tmp_path / "checkpoints/step-0000000001"


def test_a_rank_state_is_what_was_saved_and_its_rows_are_read_on_demand(rehearsal, checkpoint):
    (state,) = read_rank_states(checkpoint)
    expected = rehearsal.state_dict()
    rows, whole = state["rehearsal"]["buffer"].pop("rows"), expected["buffer"].pop("rows")
    np.testing.assert_equal(state["rehearsal"] | {"stats": None}, expected | {"stats": None})
    assert isinstance(rows, StoredRows)
    assert (len(rows), rows.shape) == (len(whole), whole.shape)
    for index in (3, slice(2, 9), np.array([7, 7, 0]), np.arange(len(whole)) % 2 == 0, slice(0, 0)):
        np.testing.assert_array_equal(rows[index], whole[index])
    np.testing.assert_array_equal(rows.column(0), whole[:, 0])
    np.testing.assert_array_equal(rows.select(np.array([5, 1])).select(np.array([1]))[:], whole[[1]])
    np.testing.assert_array_equal(np.asarray(rows), whole)


@pytest.mark.parametrize("is_lazy", [True, False])
def test_a_checkpoint_is_rewritten_without_a_trace_of_what_was_dropped(checkpoint, is_lazy):
    (before,) = read_rank_states(checkpoint)
    rows = before["rehearsal"]["buffer"]["rows"][:]
    dropped = rows[3].tobytes()

    def without_row_3(rank: int, state: dict) -> dict:
        assert rank == 0
        buffer = state["rehearsal"]["buffer"]
        keep = np.delete(np.arange(len(rows)), 3)
        buffer["rows"] = buffer["rows"].select(keep) if is_lazy else buffer["rows"][keep]
        return state

    rewrite_checkpoint(checkpoint, without_row_3)
    (after,) = read_rank_states(checkpoint)
    assert isinstance(after["rehearsal"]["buffer"]["rows"], StoredRows)
    np.testing.assert_array_equal(after["rehearsal"]["buffer"]["rows"][:], np.delete(rows, 3, axis=0))
    assert after["loss_sum"] == 2.0
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    assert not any(dropped[:40] in path.read_bytes() for path in checkpoint.iterdir() if "rows" in path.name)


def test_a_transform_that_fails_leaves_the_checkpoint_alone(checkpoint):
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(ZeroDivisionError):
        rewrite_checkpoint(checkpoint, lambda rank, state: 1 / 0)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == files
