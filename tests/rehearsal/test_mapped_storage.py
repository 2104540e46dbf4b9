"""A buffer in a file on a disk equals one in memory, and its folder belongs to one run while that runs."""

from __future__ import annotations

import os
import re
import signal

import numpy as np
import pytest
import torch
from buffer.test_storage import small_tmpfs  # noqa: F401
from ranks import run_cases, run_ranks
from rehearsal.cuda.loops import Loop, run_loop
from rehearsal.cuda.simulated import SimulatedGpu
from samples import minibatch_of

from drb import Rehearsal
from drb.buffer.admission.mean_matching import MeanMatching
from drb.buffer.storage import mapped
from drb.rehearsal import storage_folder
from drb.rehearsal.build_parts import PartsFactory

SETTINGS = [
    {},
    {"depth": 2, "interval": 3},
    {"admission": "class_balanced", "proportions": "balanced", "use_step": True},
    {"admission": MeanMatching(field="logits"), "draws": 2},
    {"admission": "random_replacement", "candidates": 3, "max_age": 6},
    {"refreshes": True},
]


def mmap(folder):
    return {"storage": "mmap", "storage_folder": str(folder)}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_buffer_may_lie_in_a_file(tmp_path, settings):
    expected = run_loop(None, **settings)
    assert expected[1] > 20
    assert run_loop(None, **settings, **mmap(tmp_path)) == expected
    assert os.listdir(tmp_path) == [".lock"]


def test_exemplars_of_a_file_may_be_wanted_on_a_gpu(tmp_path):
    assert run_loop(SimulatedGpu(is_early=False), **mmap(tmp_path)) == run_loop(None)


def test_rows_that_a_gpu_has_written_are_there_when_the_host_gathers_them(monkeypatch):
    """As it does beside prefilled samples, of which no GPU reads any."""
    expected, opened = run_loop(None), PartsFactory.exchange

    def not_direct(*arguments):
        exchange = opened(*arguments)
        exchange.direct = None
        return exchange

    monkeypatch.setattr(PartsFactory, "exchange", not_direct)
    assert run_loop(SimulatedGpu()) == expected


@pytest.mark.parametrize("lazy", [False, True])
def test_a_state_goes_on_in_a_file_and_in_memory(tmp_path, lazy):
    whole = Loop(None)
    whole.run()
    begun = Loop(None, **mmap(tmp_path))
    begun.run(0, 13)
    state, seen = begun.rehearsal.state_dict(lazy=lazy), begun.seen
    if lazy:
        state["buffer"]["rows"] = np.array(state["buffer"]["rows"][:])
    begun.rehearsal.close()
    for place in ({}, mmap(tmp_path)):
        loop = Loop(None, **place)
        loop.seen = seen.copy()
        loop.rehearsal.load_state_dict(state)
        loop.run(13)
        assert loop.result()[0] == whole.result()[0]
        loop.rehearsal.close()
    whole.rehearsal.close()


def train(rank, world_size, settings):
    """What a rank was given, what is stored on all ranks, and a state of it; some samples are forgotten on the way."""
    seen = []
    with Rehearsal(30, 7, seed=3, batch_size=24, verbose=False, **settings) as rehearsal:
        for step in range(14):
            ids = np.random.default_rng((7, step)).choice(240, 24, replace=False)
            batch = rehearsal.extend(minibatch_of(ids[ids % world_size == rank]))
            seen.append(batch["sample_id"].tolist())
            if step == 8:
                rehearsal.forget([5, 6, 17, 30, 31])
        return seen, sorted(rehearsal.sample_ids().tolist()), rehearsal.state_dict()


def go_on(rank, world_size, states, settings):
    with Rehearsal(30, 7, seed=3, verbose=False, **settings) as rehearsal:
        rehearsal.load_state_dict(states, lambda ids: ids % world_size)
        ids = np.arange(240, 280)
        return rehearsal.extend(minibatch_of(ids[ids % world_size == rank]))["sample_id"].tolist()


def test_ranks_read_one_another_s_files(tmp_path):
    ways = [
        {"exchange": "shared", "asynchronous": True},
        {"exchange": "collective"},
        {"exchange": "hierarchical", "max_age": 5, "asynchronous": False},
    ]
    cases = {str(n): (way,) for n, way in enumerate(ways)}
    cases |= {f"{n} mmap": ({**way, **mmap(tmp_path / f"{n}")},) for n, way in enumerate(ways)}
    found = run_cases(train, 2, cases)
    for n in range(len(ways)):
        heap, mapped = found[f"{n}"], found[f"{n} mmap"]
        assert [each[:2] for each in mapped] == [each[:2] for each in heap]
        assert os.listdir(tmp_path / f"{n}") == [".lock"]
    states = [each[2] for each in found["0 mmap"]]
    resharded = run_cases(go_on, 3, {"heap": (states, {}), "mmap": (states, mmap(tmp_path / "3 ranks"))})
    assert resharded["mmap"] == resharded["heap"]


def test_what_is_forgotten_is_gone_from_the_disk(tmp_path, monkeypatch):
    unlink, kept = mapped.FileSegment.unlink, []

    def keep_a_name(self):
        if not kept:
            os.link(self.path, tmp_path / "watched")
            kept.append(tmp_path / "watched")
        unlink(self)

    synced = []
    monkeypatch.setattr(mapped.FileSegment, "unlink", keep_a_name)
    sync = mapped.FileSegment.sync
    monkeypatch.setattr(mapped.FileSegment, "sync", lambda self: (synced.append(read()), sync(self)))

    def read():
        return kept[0].read_bytes()

    with Rehearsal(20, 3, verbose=False, **mmap(tmp_path)) as rehearsal:
        for first in (0, 10):
            minibatch = minibatch_of(range(first, first + 10))
            minibatch["image"] = torch.from_numpy(
                np.random.default_rng(first).integers(0, 256, minibatch["image"].shape, dtype=np.uint8)
            )
            rehearsal.extend(minibatch)
            if not first:
                mark = minibatch["image"][4].numpy().tobytes()
        rehearsal.state_dict()
        assert mark in read(), "the test shows nothing"
        rehearsal.forget([4])
        assert mark not in read()
        assert mark not in synced[-1], "it is written to the disk after it was zeroed"


def test_what_a_killed_run_left_is_removed_at_the_next_start(tmp_path):
    if not (killed := os.fork()):
        mapped.FileSegment.create(8000, str(tmp_path))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    (left,) = tmp_path.iterdir()
    assert left.stat().st_size == 8000
    (tmp_path / "mine.txt").touch()
    with Rehearsal(20, 3, verbose=False, **mmap(tmp_path)) as rehearsal:
        rehearsal.extend(minibatch_of(range(8)))
        assert sorted(os.listdir(tmp_path)) == [".lock", "mine.txt"]


def refused(rank, world_size, folder, capacity, exchange):
    storage_folder.PATIENCE_S = 0.0
    try:
        with Rehearsal(capacity, 3, verbose=False, exchange=exchange, **mmap(folder)) as rehearsal:
            rehearsal.extend(minibatch_of(range(8 * rank, 8 * rank + 8)))
    except ValueError as error:
        return str(error)
    return ""


def test_two_runs_share_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_folder, "PATIENCE_S", 0.0)
    with Rehearsal(20, 3, verbose=False, **mmap(tmp_path)) as rehearsal:
        rehearsal.extend(minibatch_of(range(8)))
        said = refused(0, 1, tmp_path, 20, "auto"), *run_ranks(refused, 2, tmp_path, 20, "collective")
        name = re.escape(str(tmp_path))
        for each in said:
            assert re.fullmatch(
                rf"storage_folder={name} cannot be used: {name} is in use by a rehearsal "
                rf"\(process {os.getpid()} on .*\); wait for its end, or stop it",
                each,
            )
    assert refused(0, 1, tmp_path, 20, "auto") == ""


def test_a_disk_without_room_is_told_before_training(small_tmpfs, caplog):  # noqa: F811
    alone = refused(0, 1, small_tmpfs, 20_000, "auto")
    assert re.fullmatch(
        rf"storage=mmap: {small_tmpfs} has \d MiB left, but this rank's buffer needs \d+ MiB of it; free some, lower "
        "the capacity or give another storage_folder",
        alone,
    )
    assert "lies in memory, so that rows there take as much" in caplog.text
    for exchange in ("shared", "collective"):
        one, other = run_ranks(refused, 2, small_tmpfs, 20_000, exchange)
        assert one == other
        assert re.match(rf"rank [01]: storage=mmap: {small_tmpfs} has \d MiB left", one)
    assert os.listdir(small_tmpfs) == [".lock"]
    assert refused(0, 1, small_tmpfs, 20, "auto") == ""


def test_what_cannot_be_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="storage=mmap and storage_folder, .* go together: got storage=mmap with"):
        Rehearsal(20, 3, storage="mmap")
    with pytest.raises(ValueError, match="go together: got storage=auto with storage_folder=/x"):
        Rehearsal(20, 3, storage_folder="/x")
    (tmp_path / "file").touch()
    for name, reason in (("no/folder", "No such file or directory"), ("file", "File exists")):
        assert refused(0, 1, tmp_path / name, 20, "auto").endswith(f"{name} cannot be used: {reason}")
    with Rehearsal(2000, 3, verbose=False, **mmap(tmp_path / "new")) as rehearsal:
        rehearsal.extend(minibatch_of(range(8)))
        assert f"; storage mmap in {tmp_path / 'new'}; " in rehearsal.describe()
        assert "rows 0 B, spare rows 0 B" in rehearsal.describe()
        assert re.search(rf", of the disk of {tmp_path / 'new'} \d+", rehearsal.describe())
