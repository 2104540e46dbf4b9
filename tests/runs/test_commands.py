"""Checkpoints from outside: `drb inspect` shows one, `drb verify` checks it, `drb forget` says who learnt from what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks

from drb.checkpoint import Checkpointer, CheckpointError, CheckpointSettings, StopSignals, rewrite_checkpoint
from drb.cli import main
from drb.distributed.world import World
from drb.rehearsal.ledger.file import LedgerWriter, cut
from drb.rehearsal.ledger.recorder import Recorder
from drb.rehearsal.rehearsal import Rehearsal
from drb.runs.verification import verify

CONFIG = {"strategy": {"name": "er"}, "dataset": {"name": "digits"}, "seed": 3}


def save(rank: int, world_size: int, folder: str, key: str | None) -> list[int]:
    """A run of two ranks, saved after 20 and 22 steps; the ids in this rank's buffer."""
    settings = CheckpointSettings(every_steps=1, signals=[], key_file=key)
    saver = Checkpointer(settings, Path(folder), World(rank, world_size), signals=StopSignals([]))
    recorder, step = Recorder(), 0
    ledger = LedgerWriter(Path(folder), recorder, rank, 0)

    def flush() -> Callable[[], None]:
        ledger.take(step + 1)
        return ledger.write

    saver.begin_run({"config": CONFIG, "versions": {}, "tracking_run_id": None}, flush)
    saver.begin_task(0)
    position = {"task": 1, "begun": True, "epoch": 2, "minibatch": 5}
    state = {"trainer": {"position": position}, "model": {"w": torch.ones(2)}, "optimizer": {}}
    with Rehearsal(20, 3, seed=4, verbose=False, asynchronous=True) as rehearsal:
        rehearsal.recorder = recorder
        for step in range(22):
            ids = torch.arange(4) + 1000 * rank + 4 * step
            rehearsal.extend({"image": torch.ones(4, 9) * ids[:, None], "label": ids % 3, "sample_id": ids})
            if step in (19, 21):
                saver.visit(step + 1, lambda: {**state, "rank": {"rehearsal": rehearsal.state_dict(lazy=True)}})
        saver.finish()
        dist.barrier()
        return sorted(rehearsal.sample_ids().tolist())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, list[list[int]]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run_ranks(save, 2, str(folder), None, timeout=60)


@pytest.fixture
def newest(saved, tmp_path) -> Path:
    """A copy of the newest checkpoint."""
    return Path(shutil.copytree(saved[0] / "checkpoints/step-0000000022", tmp_path / "copy"))


def test_inspect_shows_counts_ages_and_bytes(saved, capsys):
    folder, ids = saved
    assert main(["inspect", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["step"], facts["world_size"], facts["encrypted"]) == (22, 2, False)
    assert facts["config"] == CONFIG
    for rank, stored in zip(facts["ranks"], ids, strict=True):
        assert rank["stored"] == len(stored)
        assert rank["strata"] == {str(s): sum(i % 3 == s for i in stored) for s in sorted({i % 3 for i in stored})}
        ages = [21 - (i % 1000) // 4 for i in stored]
        assert rank["age"] == {"min": min(ages), "median": np.median(ages), "max": max(ages)}
    files = list((folder / "checkpoints/step-0000000022").iterdir())
    assert facts["bytes"] == sum(f.stat().st_size for f in files if f.name != "manifest.json")
    assert main(["inspect", str(folder / "checkpoints/step-0000000020")]) == 0
    out = capsys.readouterr().out
    assert "step 20, 2 ranks" in out
    assert "strategy er, dataset digits, seed 3" in out
    assert "rank 0  rank 1" in out


def test_a_good_checkpoint_is_verified(saved, capsys):
    folder, ids = saved
    for path in (folder, folder / "checkpoints/step-0000000020"):
        assert main(["verify", str(path)]) == 0
        assert "good" in capsys.readouterr().out
    assert verify(folder / "checkpoints/step-0000000022").exemplars == sum(map(len, ids))


def test_an_encrypted_one_needs_its_key(tmp_path, capsys):
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    run_ranks(save, 2, str(tmp_path), str(key), timeout=60)
    for command in ("inspect", "verify"):
        assert main([command, str(tmp_path)]) == 1
        assert "is encrypted; give the key" in capsys.readouterr().err
        assert main([command, str(tmp_path), "--key-file", str(key)]) == 0
        capsys.readouterr()


@pytest.mark.parametrize("how", ["cut", "flipped", "missing"])
def test_every_file_is_checked(newest, capsys, how):
    for path in [path for path in newest.iterdir() if path.name != "manifest.json"]:
        content = path.read_bytes()
        if how == "cut":
            path.write_bytes(content[:-1])
        elif how == "flipped":
            path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        else:
            path.unlink()
        assert main(["verify", str(newest)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert path.name in error
        path.write_bytes(content)
    verify(newest)


def change(state: dict, field: str) -> dict:
    buffer = state["rehearsal"]["buffer"]
    if field == "twice":
        buffer["columns"]["sample_id"][3] = buffer["columns"]["sample_id"][4]
    elif field == "another":
        buffer["columns"]["sample_id"][2] += 10_000
    elif field == "short":
        buffer["columns"]["key"] = buffer["columns"]["key"][:-1]
    elif field == "rows":
        buffer["rows"] = buffer["rows"].select(np.arange(len(buffer["rows"]) - 1))
    elif field == "reachable":
        buffer["rows"] = buffer["rows"].select(np.append(0, np.arange(len(buffer["rows"]) - 1)))
    elif field == "lost":
        del buffer["columns"]["sample_id"]
    return state


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("twice", r"rehearsal/buffer/columns/sample_id: sample \d+ is stored 2 times"),
        ("another", r"rehearsal/buffer/rows: row \d+ is of sample \d+, sample_id says 1\d{4}"),
        ("short", r"rehearsal/buffer/columns/key has \d+ values, sample_id has \d+"),
        ("rows", r"rehearsal/buffer/rows has \d+ rows, size and staged minibatch say"),
        ("reachable", r"rehearsal/buffer/rows: row \d+ is of sample"),
        ("lost", r"KeyError\('sample_id'\) is missing"),
    ],
)
def test_content_that_contradicts_itself_is_found_although_every_checksum_is_right(newest, field, problem):
    rewrite_checkpoint(newest, lambda rank, state: change(state, field) if rank == 1 else state)
    with pytest.raises(CheckpointError, match=rf"rank-00001.safetensors: {problem}"):
        verify(newest)


def test_what_is_no_checkpoint_is_one_line(tmp_path, capsys):
    for path, problem in (
        (tmp_path, "is no checkpoint: it has no manifest.json"),
        (tmp_path / "no", "there is nothing of that name"),
    ):
        assert main(["verify", str(path)]) == 1
        assert problem in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    assert main(["inspect", str(tmp_path)]) == 1
    assert "is a run directory without a checkpoint" in capsys.readouterr().err


def test_forgetting_says_which_weights_have_learnt_and_what_is_not_known(saved, tmp_path, capsys):
    run_dir = Path(shutil.copytree(saved[0], tmp_path / "run"))
    assert main(["forget", str(run_dir), "--ids", "84,1084"]) == 0
    assert "2 samples were trained on, from step 22 on: the weights of step-0000000022 have learnt from that\n" in (
        capsys.readouterr().out
    )
    cut(run_dir, 20)  # what a part of the run was trained on is lost
    assert main(["forget", str(run_dir), "--ids", "40,85"]) == 0
    assert (
        "1 sample was trained on, from step 11 on: the weights of step-0000000020, step-0000000022 have learnt from "
        "that; what the steps 21 to 22 were trained on is not known\n"
    ) in capsys.readouterr().out
    assert main(["audit", str(run_dir), "--sample", "85"]) == 0
    assert capsys.readouterr().out.endswith(
        "the ledger lacks the steps 21 to 22: what these were trained on is not known\n"
    )
