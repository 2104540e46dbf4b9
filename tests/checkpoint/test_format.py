"""Checkpoints on disk: whole or not there, checked when they are read, without pickle."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file

from drb.checkpoint import Checkpointer, CheckpointError, CheckpointSettings, StopSignals, writing
from drb.checkpoint.files import write_tensors
from drb.checkpoint.format import read_manifest, write_manifest
from drb.checkpoint.tree import Split, join, split
from drb.distributed.world import World

STATE = {
    "trainer": {"steps": 7, "nothing": None, "history": [{"acc": 0.1}]},
    "model": {"network.weight": torch.arange(6.0).reshape(2, 3), "starting.weight": torch.zeros(2, 3)},
    "optimizer": {"optimizer": {"weight": {"momentum_buffer": torch.ones(2, 3)}}, "scaler": None},
    "rank": {"buffer": {"rows": np.arange(40).reshape(4, 10), "size": np.int64(4)}, "loss_sum": torch.tensor(1.5)},
}
EVERY_STEP = CheckpointSettings(every_steps=1, keep_last=2, signals=[])


def open_checkpoints(folder: Path, said: list[str] | None = None, **settings) -> Checkpointer:
    settings = CheckpointSettings(**{"every_steps": 1, "keep_last": 2, "signals": []} | settings)
    saver = Checkpointer(settings, folder, World(), signals=StopSignals([]), say=None if said is None else said.append)
    saver.begin_task(0)
    return saver


def save(saver: Checkpointer, steps: int) -> None:
    saver.visit(steps, state(steps))
    saver.finish()


def state(steps: int):
    return lambda: {**STATE, "trainer": {"steps": steps}}


def saved_steps(folder: Path, said: list[str] | None = None, **settings) -> int | None:
    saved = open_checkpoints(folder, said, **settings).find()
    return None if saved is None else saved.state["trainer"]["steps"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Of a run that was saved at steps 1 and 2."""
    saver = open_checkpoints(tmp_path)
    saver.begin_run({"config": {"seed": 3}}, lambda: lambda: None)
    save(saver, 1)
    save(saver, 2)
    return tmp_path


@pytest.mark.parametrize(
    "value",
    [
        {"a": np.arange(3, dtype=np.uint64) + np.uint64(2**63), "b": torch.zeros(0, 4), "c": np.zeros((2, 0))},
        {"deep": {"list": [torch.tensor(3.0), {"x": np.ones(2, np.bool_)}], "none": None, "yes": True}},
        {"big": 2**64 - 1, "float": 0.1, "bf16": torch.ones(3, dtype=torch.bfloat16)},
    ],
)
def test_a_state_survives_the_trip(value):
    parts = split(value)
    back = join(Split(json.loads(json.dumps(parts.skeleton)), parts.tensors))
    torch.testing.assert_close(back, value, rtol=0, atol=0)


def test_tied_and_strided_tensors_are_saved_apart_and_unchanged(tmp_path):
    tied = torch.arange(6.0).reshape(2, 3)
    given = {"one": tied, "two": tied, "transposed": tied.t(), "scalar": torch.tensor(2, dtype=torch.uint64)}
    given |= {"half": torch.ones(3, dtype=torch.bfloat16), "none": torch.zeros(0, 4), "yes": torch.tensor([True])}
    write_tensors(tmp_path, "x", given, None)
    torch.testing.assert_close(load_file(tmp_path / "x.safetensors"), given, rtol=0, atol=0)


def test_what_would_need_a_pickle_is_refused():
    with pytest.raises(TypeError, match="a/b: a set cannot be saved"):
        split({"a": {"b": {1, 2}}})


def test_the_newest_checkpoint_is_what_was_saved(run_dir):
    saved = open_checkpoints(run_dir).find()
    assert saved.path.name == "step-0000000002"
    assert saved.facts == {"config": {"seed": 3}}
    torch.testing.assert_close(dict(saved.state), {**STATE, "trainer": {"steps": 2}}, rtol=0, atol=0)


def test_the_files_are_those_of_the_documentation(run_dir):
    files = {path.name for path in (run_dir / "checkpoints/step-0000000002").iterdir()}
    assert files == {
        "manifest.json",
        "model.safetensors",
        "optimizer.json",
        "optimizer.safetensors",
        "rank-00000.json",
        "rank-00000.safetensors",
        "trainer.json",
    }


def test_no_file_is_a_pickle(run_dir, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    monkeypatch.setattr(torch, "save", forbidden)
    save(open_checkpoints(run_dir), 3)
    assert saved_steps(run_dir) == 3


def test_only_the_last_ones_are_kept_and_only_after_the_new_one_is_there(run_dir, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="on rank 0: .*No space left"):
        patch.setattr(writing, "write_manifest", full)
        save(open_checkpoints(run_dir), 3)
    assert names(run_dir) == [".step-0000000003.writing", "step-0000000001", "step-0000000002"]
    assert saved_steps(run_dir) == 2
    assert names(run_dir) == ["step-0000000001", "step-0000000002"]
    save(open_checkpoints(run_dir), 3)
    assert names(run_dir) == ["step-0000000002", "step-0000000003"]


def test_every_file_is_on_the_disk_before_the_directory_has_its_name(run_dir, monkeypatch):
    synced: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(Path, "rename", lambda path, target: (synced.append("rename"), rename(path, target)))
    save(open_checkpoints(run_dir), 3)
    final = run_dir / "checkpoints/step-0000000003"
    before = synced[: synced.index("rename")]
    unfinished = final.with_name(".step-0000000003.writing")
    assert {str(unfinished / path.name) for path in final.iterdir()} | {str(unfinished)} == set(before)
    assert before[-2:] == [str(unfinished / "manifest.json"), str(unfinished)]
    assert synced[len(before) :] == ["rename", str(run_dir / "checkpoints"), "rename"]  # the last: an older one goes


def save_where_rank_1_cannot(rank: int, world_size: int, folder: str) -> tuple[str, list[str]]:
    """What a rank is told, and what is left."""
    saver = Checkpointer(EVERY_STEP, Path(folder), World(rank, world_size), signals=StopSignals([]))
    saver.begin_task(0)
    save(saver, 1)
    if rank == 1:
        writing.write_part = lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    with pytest.raises(CheckpointError) as error:
        save(saver, 2)
    return str(error.value), [path.name for path in saver._folder.checkpoints()]


def test_if_one_rank_cannot_write_all_say_so_and_the_last_good_one_stays(tmp_path):
    (first, kept), (second, _) = run_ranks(save_where_rank_1_cannot, 2, str(tmp_path))
    assert first == second
    assert first.startswith("the checkpoint could not be saved on rank 1: [Errno 28] No space left on device")
    assert kept == ["step-0000000001"]


def test_a_directory_without_a_manifest_is_no_checkpoint(run_dir):
    (run_dir / "checkpoints/step-0000000002/manifest.json").unlink()
    said: list[str] = []
    assert saved_steps(run_dir, said) == 1
    assert "it has no manifest.json; trying the one before" in said[0]


def test_a_run_killed_between_the_two_renames_keeps_the_old_one(run_dir):
    folder = run_dir / "checkpoints"
    (folder / "step-0000000002").rename(folder / ".step-0000000002.old")
    assert saved_steps(run_dir) == 2
    assert names(run_dir) == ["step-0000000001", "step-0000000002"]


def test_saving_a_step_again_replaces_it_and_drops_the_future(run_dir):
    saver = open_checkpoints(run_dir, resume="auto", keep_last=3)
    saver.visit(1, lambda: {**STATE, "trainer": {"steps": 100}})
    saver.finish()
    assert names(run_dir) == ["step-0000000001"]
    assert saved_steps(run_dir) == 100


DAMAGED = ["trainer.json", "optimizer.json", "rank-00000.json"]
DAMAGED += ["model.safetensors", "optimizer.safetensors", "rank-00000.safetensors", "manifest.json"]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "cut short", "flipped"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(run_dir, name, how):
    newest = run_dir / "checkpoints/step-0000000002"
    damage(newest / name, how)
    said: list[str] = []
    assert saved_steps(run_dir, said) == 1
    with pytest.raises(CheckpointError) as error:
        saved_steps(run_dir, resume=str(newest))
    if name != "manifest.json":  # a changed byte there may also accuse the file it is about
        assert name in str(error.value)
        assert {"missing": "is missing", "cut short": "cut short", "flipped": "checksum"}[how] in str(error.value)
    assert len(said) == 1
    assert str(error.value) in said[0]


def test_no_flipped_byte_of_a_manifest_crashes(run_dir):
    path = run_dir / "checkpoints/step-0000000002/manifest.json"
    content = path.read_bytes()
    for position in range(0, len(content), 23):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        said: list[str] = []
        steps = saved_steps(run_dir, said)
        assert steps == 1 or json.loads(path.read_text()) == json.loads(content)  # an indentation
        assert steps == 2 or "step-0000000002/manifest.json" in said[0]


def test_if_none_is_left_the_run_does_not_start_anew_in_silence(run_dir):
    for path in (run_dir / "checkpoints").iterdir():
        damage(path / "trainer.json", "flipped")
    with pytest.raises(CheckpointError, match=r"checksum is wrong; nothing is left .* checkpoint.resume=never"):
        saved_steps(run_dir)


def test_a_checkpoint_that_lacks_ranks_is_refused(run_dir):
    for step in (1, 2):
        path = run_dir / f"checkpoints/step-000000000{step}"
        write_manifest(path, replace(read_manifest(path), world_size=4))
    with pytest.raises(CheckpointError, match=r"lists neither rank-00001.safetensors nor rank-00001.json"):
        saved_steps(run_dir)


def test_a_later_format_is_refused_by_its_number(run_dir):
    path = run_dir / "checkpoints/step-0000000002/manifest.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(CheckpointError, match="format 3, this drb reads format 2"):
        saved_steps(run_dir, resume=str(path.parent))


def test_never_starts_anew_and_auto_without_any_does_too(run_dir, tmp_path):
    assert saved_steps(run_dir, resume="never") is None
    assert saved_steps(tmp_path / "empty") is None
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        saved_steps(run_dir, resume=str(tmp_path / "nowhere"))
