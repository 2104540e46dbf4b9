"""The proof: samples of random bytes are planted, spread everywhere, forgotten, and then looked for everywhere.

What is looked through is found by itself: every array that a rehearsal or a checkpointer can reach, every file below
the run directory, every shared-memory segment. That each kind of place did hold a forgotten sample before is checked,
too, so leaving out the zeroing of any one of them fails the test.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from rehearsal.erasure.traces import planted, traces_in_files, traces_in_memory

from drb import Rehearsal
from drb.checkpoint import CheckpointDirectory, Checkpointer, CheckpointSettings, StopSignals, read_rank_states
from drb.cli import main
from drb.distributed.world import World
from drb.rehearsal.state.forget import ids_in_state
from drb.runs.forget import CheckpointPurge, forget_in_run

STEPS, ROWS = 12, 6
FORGOTTEN = [i for i in range(4 * STEPS * ROWS) if i % 8 < 4]  # half of what each of up to 4 ranks is offered


def ids_of(rank, world_size, step):
    return [(step * ROWS + i) * world_size + rank for i in range(ROWS)]


def forgotten_of(rank, world_size):
    return [i for i in FORGOTTEN if i % world_size == rank][:ROWS]


class Run:
    """A rehearsal and its checkpoints, as a trainer has them."""

    def __init__(self, rank, world_size, run_dir, options):
        self.rank, self.world_size, self.run_dir, self.step = rank, world_size, run_dir, 0
        settings = CheckpointSettings(every_steps=2, keep_last=3)
        self.saver = Checkpointer(settings, run_dir, World(rank, world_size), signals=StopSignals([]))
        self.rehearsal = Rehearsal(capacity=16, exemplars=5, seed=2, batch_size=ROWS, verbose=False, **options)
        self.rehearsal.forget_observers.append(CheckpointPurge(self.saver))
        saved = self.saver.find()
        self.saver.begin_run({"config": {}}, lambda: lambda: None)
        if saved is not None:
            self.step = saved.state["trainer"]["step"]
            self.rehearsal.load_state_dict(saved.state["rank"]["rehearsal"])
        self.saver.begin_task(self.step)

    def state(self):
        own = {"rehearsal": self.rehearsal.state_dict(lazy=True)}
        return {"rank": own, "trainer": {"step": self.step}, "model": {"w": torch.ones(3)}, "optimizer": {}}

    def train(self, steps, offered=None):
        for _ in range(steps):
            batch = self.rehearsal.extend(planted(offered or ids_of(self.rank, self.world_size, self.step)))
            self.step += 1
            if self.step >= self.saver.next_step:
                self.saver.visit(self.step, self.state)
        self.saver.finish()
        return batch

    def traces(self, ids=FORGOTTEN):
        """Between steps, with no round in flight."""
        self.rehearsal.duplicate_share()
        places = {"rehearsal": self.rehearsal, "saver": self.saver}
        return traces_in_memory(places, ids)

    def close(self):
        self.rehearsal.close()
        self.saver.finish()


def kinds(traces):
    """Which kinds of places hold something: each has a zeroing step of its own."""
    wanted = {
        "blocks": "host_blocks",
        "extension": "_output._outputs",
        "snapshots": "_watch._aside",
        "copies": "_memory._homes",
        "outgoing": "_outgoing",
        "rows": "buffer.rows",
    }
    return {kind for kind, part in wanted.items() if any(part in name for name in traces)}


def forget_all(rank, world_size, run_dir, options):
    run = Run(rank, world_size, run_dir, options)
    run.train(STEPS)
    set_aside(run)
    before = kinds(run.traces())
    free = free_rows(run)
    assert np.isin(run.rehearsal._running.parts.buffer.rows[free, 0], FORGOTTEN).any()  # evicted ones, too

    assert run.rehearsal.forget(FORGOTTEN) > 0
    assert run.traces() == {}
    assert traces_in_files(run_dir, FORGOTTEN) == {}
    assert traces_in_files(Path("/dev/shm"), FORGOTTEN) == {}
    buffer = run.rehearsal._running.parts.buffer
    assert not buffer.rows[free_rows(run)].any()

    batch = run.train(4, offered=forgotten_of(rank, world_size))  # they come again, and are saved again
    assert int(batch["rehearsed"].sum()) == 5
    assert not np.isin(batch["sample_id"][ROWS:].numpy(), FORGOTTEN).any()
    assert {name for name in run.traces() if "_output." not in name} == set()  # which holds what was just offered
    if dist.is_initialized():
        dist.barrier()
    assert traces_in_files(run_dir, FORGOTTEN) == {}
    run.close()
    return before


def forget_without_purge(rank, world_size, run_dir, options):
    run = Run(rank, world_size, run_dir, options)
    run.rehearsal.forget_observers.clear()
    run.train(STEPS)
    run.saver.settle()
    run.rehearsal.forget(FORGOTTEN)
    run.train(2)
    return [sorted(traces_in_files(path, FORGOTTEN)) for path in checkpoints(run_dir)]


def set_aside(run):
    """Have a snapshot copy rows aside, as one does whose writer is slow."""
    state = run.rehearsal.state_dict(lazy=True)
    buffer = run.rehearsal._running.parts.buffer
    buffer._before_writing(buffer.occupied_rows()[: len(buffer._watch._aside)])
    state["buffer"]["rows"].close()


def free_rows(run):
    buffer = run.rehearsal._running.parts.buffer
    return np.setdiff1d(np.arange(len(buffer.rows)), buffer.occupied_rows())


def resume(rank, world_size, run_dir, options):
    """Forgotten samples are still denied by a run that goes on."""
    run = Run(rank, world_size, run_dir, options)
    assert run.step > 0
    batch = run.train(5, offered=forgotten_of(rank, world_size))
    assert int(batch["rehearsed"].sum()) == 5
    assert not np.isin(batch["sample_id"][ROWS:].numpy(), FORGOTTEN).any()
    assert not np.isin(run.rehearsal.sample_ids(), FORGOTTEN).any()
    if dist.is_initialized():
        dist.barrier()
    assert traces_in_files(run_dir, FORGOTTEN) == {}
    run.close()


CASES = [
    (1, {"exchange": "loopback", "asynchronous": False}),
    (2, {"exchange": "shared", "asynchronous": True}),
    (2, {"exchange": "collective", "asynchronous": True, "admission": "fifo"}),
    (2, {"exchange": "hierarchical", "asynchronous": False, "admission": "class_balanced"}),
]


@pytest.mark.parametrize(("world_size", "options"), CASES, ids=[options["exchange"] for _, options in CASES])
def test_nothing_of_a_forgotten_sample_is_left_anywhere(tmp_path, world_size, options):
    held = run_ranks(forget_all, world_size, tmp_path, options, timeout=150)
    expected = {"blocks", "extension", "snapshots", "copies", "rows"}
    if options["exchange"] in ("collective", "hierarchical"):
        expected.add("outgoing")
    assert all(kinds >= expected for kinds in held)
    run_ranks(resume, world_size, tmp_path, options, timeout=150)


def test_later_checkpoints_link_no_file_from_before_a_forget(tmp_path):
    ((*earlier, last),) = run_ranks(forget_without_purge, 1, tmp_path, CASES[0][1], timeout=150)
    assert all(earlier)
    assert last == []


def only_train(rank, world_size, run_dir, options):
    run = Run(rank, world_size, run_dir, options)
    run.train(STEPS)
    run.close()


@pytest.fixture
def stopped(tmp_path):
    """A run of two ranks that has ended, with three checkpoints."""
    options = {"exchange": "shared", "asynchronous": True}
    run_ranks(only_train, 2, tmp_path, options, timeout=150)
    return tmp_path


def checkpoints(run_dir):
    return CheckpointDirectory(run_dir / "checkpoints", 1).checkpoints()


def test_a_run_that_is_not_running_forgets_by_a_command(stopped, capsys):
    assert traces_in_files(stopped, FORGOTTEN)
    (stopped / "ids.txt").write_text("\n".join(map(str, FORGOTTEN[10:])))
    command = ["forget", str(stopped), "--ids", ",".join(map(str, FORGOTTEN[:10])), "--ids-file", f"{stopped}/ids.txt"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{len(FORGOTTEN)} sample ids are denied from now on; ")
    assert traces_in_files(stopped, FORGOTTEN) == {}
    assert len(checkpoints(stopped)) == 3
    files = {path: path.stat().st_mtime_ns for path in stopped.rglob("*.safetensors")}
    assert main(command) == 0  # nothing is left to do
    assert f"the checkpoints deny these {len(FORGOTTEN)} sample ids already" in capsys.readouterr().out
    assert files == {path: path.stat().st_mtime_ns for path in stopped.rglob("*.safetensors")}
    run_ranks(resume, 2, stopped, {"exchange": "collective", "asynchronous": False}, timeout=150)


def test_a_command_forgets_what_a_condition_matches(stopped, capsys):
    before = [ids_in_state(own["rehearsal"]) for path in checkpoints(stopped) for own in read_rank_states(path)]
    matched = [i for i in np.unique(np.concatenate(before)).tolist() if i % 5 in (1, 3)]
    assert main(["forget", str(stopped), "--where", "label=1,3", "--where", "stratum=1,2,3"]) == 0
    for path in checkpoints(stopped):
        for own in read_rank_states(path):
            assert own["rehearsal"]["denied"].tolist() == matched
            assert not np.isin(ids_in_state(own["rehearsal"]), matched).any()
    assert traces_in_files(stopped, matched) == {}
    assert re.search(r"\d+ stored exemplars were removed from 3 checkpoints\n", capsys.readouterr().out)
    assert main(["forget", str(stopped), "--where", "label=99"]) == 0
    assert capsys.readouterr().out == "nothing to do: no stored exemplar has label=99\n"
    assert main(["forget", str(stopped), "--where", "label=99", "--ids", str(matched[0])]) == 0
    expected = "nothing to do: the checkpoints deny this sample id already, and no stored exemplar has label=99\n"
    assert capsys.readouterr().out == expected
    assert main(["forget", str(stopped), "--ids", "9999", "--dry-run"]) == 0
    assert "1 sample id would be denied; 0 stored exemplars would be removed\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to forget: give --ids, --ids-file, --file or --where"),
        (["--ids", "1,two"], "--ids must hold integers, got 'two'"),
        (["--where", "label"], "--where must be FIELD=NUMBER[,NUMBER], such as label=3, got 'label'"),
        (["--where", "colour=3"], "where= names the field 'colour', which records lack"),
    ],
)
def test_a_command_that_cannot_be_followed_is_refused(stopped_once, arguments, message, capsys):
    assert main(["forget", str(stopped_once), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """As `stopped`, for tests that change nothing."""
    path = tmp_path_factory.mktemp("run")
    run_ranks(only_train, 1, path, {"exchange": "loopback", "asynchronous": False}, timeout=150)
    return path


def test_a_run_in_progress_is_left_alone(stopped_once, tmp_path, capsys):
    run_dir, settings = tmp_path / "run", CheckpointSettings()
    shutil.copytree(stopped_once, run_dir)
    for _ in range(2):  # the same process may go on with its run
        with Checkpointer(settings, run_dir, World(0, 1), signals=StopSignals([])) as saver:
            assert saver.find() is not None
            again = Checkpointer(settings, run_dir, World(0, 1), signals=StopSignals([]))
            assert again.find() is not None
            assert main(["forget", str(run_dir), "--ids", "1"]) == 1
            assert "is in use by a training run (process " in capsys.readouterr().err
    assert main(["forget", str(run_dir), "--ids", "1"]) == 0
    assert main(["forget", str(tmp_path), "--ids", "1"]) == 1
    assert "has no checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize("moment", range(6))
def test_killed_at_any_moment_every_checkpoint_can_be_read(stopped_once, tmp_path, moment, monkeypatch):
    run_dir = tmp_path / "run"
    shutil.copytree(stopped_once, run_dir)
    names = [path.name for path in checkpoints(run_dir)]
    calls, rename = [], Path.rename

    def killed(path, target):
        if len(calls) == moment:
            raise SystemExit
        calls.append(path)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(SystemExit):
            forget_in_run(run_dir, FORGOTTEN)
    CheckpointDirectory(run_dir / "checkpoints", 1).clean()  # as the next start does
    assert [path.name for path in checkpoints(run_dir)] == names
    for path in checkpoints(run_dir):
        assert len(read_rank_states(path)) == 1
    forget_in_run(run_dir, FORGOTTEN)
    assert traces_in_files(run_dir, FORGOTTEN) == {}
