"""What a run does about its old files never ends it: the new checkpoint is complete."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint.test_format import STATE, names, open_checkpoints, save, saved_steps

from drb.checkpoint import CheckpointError, rewrite_checkpoint
from drb.runs.forget import forget_in_run


@pytest.fixture
def stuck_folders(monkeypatch):
    """Directories cannot be deleted, as on NFS while some process has one of their files open; the reasons to use."""
    reasons = [errno.ENOTEMPTY]

    def fail(path, **_):
        if reasons:
            raise OSError(reasons[0], os.strerror(reasons[0]), str(path))
        real(path, **_)

    real = os.rmdir
    monkeypatch.setattr(os, "rmdir", fail)
    return reasons


@pytest.mark.parametrize("reason", [errno.ENOTEMPTY, errno.EBUSY, errno.EACCES])
def test_an_old_checkpoint_that_cannot_be_deleted_does_not_end_the_run(tmp_path, stuck_folders, caplog, reason):
    stuck_folders[0] = reason
    saver = open_checkpoints(tmp_path, keep_last=1)
    for steps in (1, 2, 3):
        save(saver, steps)
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["step-0000000003"]
    assert "step-0000000001.deleted cannot be deleted" in caplog.messages[0]
    assert os.strerror(reason) in caplog.messages[0]
    assert saved_steps(tmp_path, keep_last=1) == 3
    stuck_folders.clear()
    assert saved_steps(tmp_path, keep_last=1) == 3
    assert names(tmp_path) == ["step-0000000003"]  # by now they could be deleted


def test_what_a_killed_run_left_does_not_keep_the_next_one_from_saving(tmp_path, stuck_folders):
    for left in (".step-0000000001.writing", ".step-0000000001.deleted", ".step-0000000007.writing"):
        (tmp_path / "checkpoints" / left).mkdir(parents=True)
        (tmp_path / "checkpoints" / left / ".nfs0001").write_text("")
    saver = open_checkpoints(tmp_path)
    assert saver.find() is None
    save(saver, 1)
    files = [path.name for path in (tmp_path / "checkpoints/step-0000000001").iterdir()]
    assert "manifest.json" in files
    assert ".nfs0001" not in files


def test_a_rename_that_succeeds_and_reports_an_error_is_a_success(tmp_path, monkeypatch):
    real = Path.rename

    def rename(self, target):
        real(self, target)
        raise OSError(errno.ENOENT, "the answer to a repeated request", str(self))

    saver = open_checkpoints(tmp_path, keep_last=1)
    monkeypatch.setattr(Path, "rename", rename)
    for steps in (1, 2):
        save(saver, steps)
    assert names(tmp_path) == ["step-0000000002"]
    assert saved_steps(tmp_path) == 2


def test_forgetting_does_not_pass_over_what_it_cannot_delete(tmp_path, stuck_folders):
    """A checkpoint that was replaced holds the samples that were to be forgotten."""
    saver = open_checkpoints(tmp_path)
    save(saver, 1)
    with pytest.raises(CheckpointError, match=r"\.step-0000000001\.old cannot be deleted: .*may contain samples"):
        rewrite_checkpoint(tmp_path / "checkpoints/step-0000000001", lambda rank, own: own)
    del saver
    with pytest.raises(CheckpointError, match="cannot be deleted"):
        forget_in_run(tmp_path, [1])


def test_a_marker_that_cannot_be_written_or_removed_does_not_end_the_run(tmp_path):
    (tmp_path / "INTERRUPTED").mkdir()
    said: list[str] = []
    saver = open_checkpoints(tmp_path, said)
    saver.begin_run({}, lambda: lambda: None)
    save(saver, 1)
    assert len(said) == 1
    assert "INTERRUPTED" in said[0]
    assert torch.equal(saver.find().state["model"]["network.weight"], STATE["model"]["network.weight"])


def test_nothing_of_another_kind_is_read(tmp_path):
    """A pipe would hold the reader up for ever, a manifest of gigabytes fill its memory."""
    saver = open_checkpoints(tmp_path)
    save(saver, 1)
    save(saver, 2)
    del saver
    newest = tmp_path / "checkpoints/step-0000000002"
    kept = Path(shutil.copytree(newest, tmp_path / "kept"))
    for file in ("manifest.json", "trainer.json", "model.safetensors", "rank-00000.safetensors"):
        (newest / file).unlink()
        os.mkfifo(newest / file)
        said: list[str] = []
        assert saved_steps(tmp_path, said) == 1
        assert said == [f"checkpoint: {newest / file} is no regular file; trying the one before"]
        (newest / file).unlink()
        shutil.copy(kept / file, newest / file)
    with open(newest / "manifest.json", "r+b") as manifest:
        manifest.truncate(3 << 29)
    said = []
    assert saved_steps(tmp_path, said) == 1
    assert f"{newest / 'manifest.json'} has 1610612736 bytes" in said[0]


def test_a_key_file_is_a_small_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "large").chmod(0o600)
    for name, problem in (("pipe", "is no regular file"), ("large", "has 1099511627776 bytes")):
        with pytest.raises(ValueError, match=problem):
            open_checkpoints(tmp_path / "run", key_file=str(tmp_path / name))
