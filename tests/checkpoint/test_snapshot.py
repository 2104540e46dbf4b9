"""The rows of a snapshot are those of its moment, whatever the owner does while they are being read."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import drb
import drb.buffer.snapshot
from drb.buffer.snapshot import RowWatch
from drb.rehearsal.rehearsal import Rehearsal


def minibatch(step: int, rows: int = 8) -> dict[str, torch.Tensor]:
    ids = torch.arange(step * rows, (step + 1) * rows)
    return {"image": torch.randint(0, 255, (rows, 3, 4), dtype=torch.uint8), "label": ids % 3, "sample_id": ids}


@pytest.mark.parametrize("admission", ["fifo", "reservoir", "random_replacement"])
def test_a_buffers_lazy_rows_stay_as_they_were_while_it_is_overwritten(admission):
    generator = np.random.default_rng(3)
    candidates = 6 if admission == "random_replacement" else None
    with Rehearsal(
        24, 3, admission=admission, candidates=candidates, seed=2, verbose=False, asynchronous=True
    ) as rehearsal:
        for step in range(6):
            rehearsal.extend(minibatch(step))
        for start in range(6, 66, 6):
            expected = rehearsal.state_dict()["buffer"]["rows"]
            rows = rehearsal.state_dict(lazy=True)["buffer"]["rows"]
            found = np.zeros_like(expected)
            parts = np.array_split(generator.permutation(len(rows)), 6)
            for step, index in enumerate(parts, start):  # a slow writer: part of the rows, then a step of training
                part = np.empty((len(index), rows.shape[1]), np.int64)
                rows.take(index, part)
                found[index] = part
                rehearsal.extend(minibatch(step))
            rows.close()
            np.testing.assert_array_equal(found, expected)


def test_late_fields_that_come_after_the_snapshot_are_not_in_it():
    spec = {"label": (torch.int64, ()), "logits": drb.Field(torch.float32, (2,), late=True)}
    with Rehearsal(10, 2, spec=spec, verbose=False, asynchronous=False) as rehearsal:
        rehearsal.step({"label": torch.arange(4), "sample_id": torch.arange(4)})
        eager = rehearsal.state_dict()["buffer"]["rows"]
        rows = rehearsal.state_dict(lazy=True)["buffer"]["rows"]
        rehearsal.attach(logits=torch.ones(4, 2))
        np.testing.assert_array_equal(rows[:], eager)
        later = rehearsal.state_dict(lazy=True)["buffer"]["rows"]
        assert not np.isin(later.versions, rows.versions).any()  # the same rows, but not with the same content


def test_equal_versions_mean_equal_rows_and_little_else_is_new():
    seen: dict[int, bytes] = {}
    with Rehearsal(24, 3, seed=2, verbose=False, asynchronous=False) as rehearsal:
        for step in range(40):
            rehearsal.extend(minibatch(step))
            rows = rehearsal.state_dict(lazy=True)["buffer"]["rows"]
            new = 0
            for version, row in zip(rows.versions.tolist(), rows[:], strict=True):
                new += version not in seen
                assert seen.setdefault(version, row.tobytes()) == row.tobytes()
            assert new <= 8 or step == 0


def test_memory_for_rows_set_aside_is_bounded_and_the_owner_waits_for_the_reader(monkeypatch):
    monkeypatch.setattr(drb.buffer.snapshot, "_ASIDE_BYTES", 0)
    rows = np.arange(64 * 4).reshape(64, 4)
    expected = rows.copy()
    watch = RowWatch(rows)
    snapshot = watch.snapshot(np.arange(64))
    assert len(watch._aside) == 8
    overwritten = threading.Event()

    def overwrite() -> None:
        for start in range(0, 64, 4):
            where = np.arange(start, start + 4)
            watch.before_writing(where)
            rows[where] = -1
        overwritten.set()

    owner = threading.Thread(target=overwrite)
    owner.start()
    assert not overwritten.wait(0.2)  # more than fits has to be overwritten before anything was read
    found = np.empty_like(rows)
    for start in range(0, 64, 16):
        snapshot.take(np.arange(start, start + 16), found[start : start + 16])
    owner.join(30)
    assert overwritten.is_set()
    np.testing.assert_array_equal(found, expected)


def test_a_snapshot_that_a_later_one_replaced_is_refused_not_read_wrongly():
    watch = RowWatch(np.zeros((4, 2), np.int64))
    first, second = watch.snapshot(np.arange(4)), watch.snapshot(np.arange(4))
    with pytest.raises(ValueError, match="a later one was taken"):
        first.take(np.arange(2), np.empty((2, 2), np.int64))
    assert second[1].tolist() == [0, 0]


@pytest.mark.parametrize("how", ["closed", "forgotten", "not needed"])
def test_nobody_waits_for_a_snapshot_that_is_over(monkeypatch, how):
    monkeypatch.setattr(drb.buffer.snapshot, "_ASIDE_BYTES", 0)
    rows = np.zeros((64, 4), np.int64)
    watch = RowWatch(rows)
    snapshot = watch.snapshot(np.arange(64))
    if how == "closed":
        snapshot.close()
    elif how == "forgotten":
        del snapshot
    else:
        snapshot.need_only(np.arange(0))
    watch.before_writing(np.arange(64))


def test_reader_and_owner_race_without_a_wrong_row():
    rows = np.zeros((200, 64), np.int64)
    watch, stop, generator = RowWatch(rows), threading.Event(), np.random.default_rng(0)
    value = 0
    snapshots = []

    def read() -> None:
        while not stop.is_set():
            if snapshots:
                snapshot, expected = snapshots.pop()
                found = np.empty((200, 64), np.int64)
                for index in np.array_split(np.arange(200), 9):
                    snapshot.take(index, part := np.empty((len(index), 64), np.int64))
                    found[index] = part
                wrong.append(int((found != expected[:, None]).sum()))

    wrong: list[int] = []
    reader = threading.Thread(target=read)
    reader.start()
    done = 0
    while done < 80:
        if len(wrong) == done and not snapshots:
            done += 1
            snapshots.append((watch.snapshot(np.arange(200)), rows[:, 0].copy()))
        where = generator.choice(200, 5, replace=False)
        value += 1
        watch.before_writing(where)
        rows[where] = value
    stop.set()
    reader.join(30)
    assert len(wrong) >= 79
    assert sum(wrong) == 0
