"""What ranks must share is checked at the start, and waited for later; a run directory belongs to one run."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

from programs import ROOT, TINY, TRAIN, Running, free_port, place_of, start_ranks
from ranks import run_ranks

# rank 1 of a machine whose libraries are older
OLD_NUMPY = """
import os, sys
import numpy
if os.environ["RANK"] == "1":
    numpy.__version__ = "1.0"
from drb.train import main
sys.exit(main())
"""


def test_another_library_or_another_drb_is_named_before_anything_starts(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(OLD_NUMPY)
    shutil.copytree(ROOT / "drb", tmp_path / "other" / "drb", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "other" / "drb" / "types.py", "a") as file:
        file.write("# of yesterday\n")
    port = free_port()
    paths = [str(ROOT), str(tmp_path / "other")]
    ranks = [
        Running([sys.executable, str(program), *TINY], tmp_path, PYTHONPATH=paths[rank], **place_of(rank, 2, port))
        for rank in (0, 1)
    ]
    main, other = [rank.wait(90) for rank in ranks]
    assert (main.code, other.code) == (1, 1), (main, other)
    (line,) = main.errors
    assert "drb: error: rank 1, on " in line
    assert "numpy 1.0 (rank 0: " in line
    assert "drb's code " in line
    assert main.out == ""


def test_a_run_directory_on_a_nodes_own_disk_is_named_at_the_start(tmp_path):
    port, nodes = free_port(), [tmp_path / "node0", tmp_path / "node1"]
    for node in nodes:
        node.mkdir()
    arguments = [*TINY, "hydra.run.dir=run", "timeout_s=6"]
    ranks = [Running([*TRAIN, *arguments], nodes[rank], **place_of(rank, 2, port)) for rank in (0, 1)]
    main, other = [rank.wait(60) for rank in ranks]
    assert (main.code, other.code) == (1, 1), (main, other)
    (line,) = main.errors
    assert "drb: error: rank 1, on " in line
    assert "checkpoints need a run directory that all ranks share" in line
    assert "after task" not in main.out
    assert not list(nodes[0].glob("run/.probe*"))


def see_late(rank, world_size, folder):
    """A tiny run on a file system that shows rank 1 a new checkpoint's folder two seconds late, and nothing else."""
    import time
    from dataclasses import replace

    from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals
    from drb.distributed.world import World

    is_dir, first = Path.is_dir, {}

    def is_dir_late(path):
        if rank == 1 and path.name.endswith(".writing"):
            return time.monotonic() - first.setdefault(path, time.monotonic()) > 2 and is_dir(path)
        return is_dir(path)

    Path.is_dir = is_dir_late
    world = replace(World(), rank=rank, world_size=world_size)
    settings = CheckpointSettings(at_task_end=True)
    with Checkpointer(settings, Path(folder), world, signals=StopSignals([])) as checkpointer:
        assert checkpointer.find() is None
        checkpointer.begin_run({}, lambda: lambda: None)
        state = {name: {} for name in ("rank", "trainer", "model", "optimizer")}
        checkpointer.visit_boundary(7, lambda: state, evaluated=True)
    return sorted(path.name for path in Path(folder, "checkpoints").iterdir())


def test_a_folder_that_another_node_sees_late_is_waited_for(tmp_path):
    assert run_ranks(see_late, 2, str(tmp_path)) == [["step-0000000007-evaluated"]] * 2


def test_of_two_different_runs_in_one_directory_one_is_refused(tmp_path):
    runs = [Running([*TRAIN, *TINY, f"seed={seed}", "hydra.run.dir=run"], tmp_path) for seed in (1, 2)]
    ended = [run.wait(90) for run in runs]
    assert sorted(run.code for run in ended) == [0, 1], ended
    winner = next(seed for seed, run in zip((1, 2), ended, strict=True) if run.code == 0)
    (line,) = ended[2 - winner].errors
    assert f"summary.json was made with seed={winner}, this run has {3 - winner}" in line
    assert json.loads((tmp_path / "run/summary.json").read_text())["seed"] == winner
    without = Running([*TRAIN, *TINY, "seed=9", "hydra.run.dir=run", "checkpoint.enabled=false"], tmp_path).wait()
    assert without.code == 1, without
    assert json.loads((tmp_path / "run/summary.json").read_text())["seed"] == winner


def test_of_two_starts_at_the_same_instant_one_trains_and_so_of_two_resumes(tmp_path):
    job = ["experiment=digits", "tracking=none", "training.epochs=3", "checkpoint.every_steps=20", "hydra.run.dir=run"]
    first = Running([*TRAIN, *job, "training.log_every=1"], tmp_path)
    first.wait_for("after task 2")
    first.signal(signal.SIGKILL)
    first.wait()
    for train in (job, [*job[:-1], "hydra.run.dir=other"]):
        ended = [run.wait(90) for run in [Running([*TRAIN, *train], tmp_path) for _ in range(2)]]
        assert [run.code for run in ended] == [0, 0], ended
        assert sorted("after task 5" in run.out for run in ended) == [False, True]
        assert sorted("this run is finished" in run.out for run in ended) == [False, True]
        assert sum("resumed from" in run.out + run.err for run in ended) == (train is job)
    runs = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "other")]
    assert runs[0]["accuracy_matrix"] == runs[1]["accuracy_matrix"]


def test_a_run_that_resumed_from_a_path_goes_on_from_its_own_checkpoint_when_it_is_started_again(tmp_path):
    job = [*TINY, "scenario.num_tasks=2", "checkpoint.keep_last=9", "checkpoint.at_task_end=true"]
    (first,) = [rank.wait(90) for rank in start_ranks(1, [*job, "hydra.run.dir=a"], tmp_path)]
    assert first.code == 0, first
    path = min((tmp_path / "a/checkpoints").iterdir())
    again = [*job, "hydra.run.dir=b", f"checkpoint.resume={path}"]
    outputs = []
    for _ in range(3):
        ended = Running([*TRAIN, *again], tmp_path).wait(90)
        assert ended.code == 0, ended
        outputs.append(ended.out + ended.err)
        if len(outputs) == 1:
            (tmp_path / "b/summary.json").unlink()  # killed just before
    assert f"resumed from {path}" in outputs[0]
    assert "resumed from b/checkpoints/step-" in outputs[1]
    assert "this run is finished" in outputs[2]
