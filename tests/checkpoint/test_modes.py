"""Who may read what is saved, and what is never written in plain where there is a key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from checkpoint.test_format import open_checkpoints, save

from drb.checkpoint import rewrite_checkpoint
from drb.program.config import check_config, compose_config


def modes(folder: Path) -> set[str]:
    return {f"{stat.S_IMODE(path.stat().st_mode):o}" for path in [folder, *folder.rglob("*")]}


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_only_the_user_may_read_checkpoints_unless_told_otherwise(tmp_path):
    save(open_checkpoints(tmp_path / "private"), 1)
    assert modes(tmp_path / "private/checkpoints") == {"700", "600"}
    rewrite_checkpoint(tmp_path / "private/checkpoints/step-0000000001", lambda rank, own: own)
    assert modes(tmp_path / "private/checkpoints") == {"700", "600"}
    save(open_checkpoints(tmp_path / "shared", private=False), 1)
    assert modes(tmp_path / "shared/checkpoints") == {"755", "644"}


def test_a_key_and_a_cache_in_plain_are_not_had_together(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    job = ["dataset=image_folder", f"dataset.root={tmp_path}", f"checkpoint.key_file={key}"]
    config, _ = compose_config([*job, "dataset.cache=always"], "run")
    with pytest.raises(ValueError, match=r"dataset.cache=always writes the decoded images unencrypted"):
        check_config(config, 1)
