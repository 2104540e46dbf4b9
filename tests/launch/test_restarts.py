"""torchrun starts all ranks again after one has died, also with another number of ranks, and the run goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist
from programs import ROOT, TORCHRUN, Running, free_port, start_ranks

from drb.distributed.failure import PeerError
from drb.distributed.launchers import read_place
from drb.distributed.restarts import fresh_store

JOB = ["experiment=digits", "tracking=none", "checkpoint.every_steps=20", "training.epochs=6"]
SAMPLES = 6 * 1438  # of digits' training set, in all epochs


def ranks_of(agent: Running) -> list[int]:
    """Process ids of the ranks that a torchrun has started."""
    return sorted(child.pid for child in psutil.Process(agent.pid).children())


def summary(folder: Path) -> dict:
    (found,) = folder.glob("runs/*/summary.json")
    return json.loads(found.read_text())


def test_a_killed_rank_is_started_again_and_the_run_completes_by_itself(tmp_path):
    run = Running([*TORCHRUN, "--nproc-per-node=2", "--max-restarts=1", "-m", "drb.train", *JOB], tmp_path)
    run.wait_for("after task 2", 90)
    os.kill(ranks_of(run)[1], signal.SIGKILL)
    ended = run.wait(100)
    assert ended.code == 0, ended
    resumed = r"resumed from runs/torchrun-[0-9a-f]{8}/checkpoints/step-"
    assert len(re.findall(resumed, ended.out + ended.err)) == 1
    assert summary(tmp_path)["samples"] == SAMPLES


def test_one_told_to_stop_is_not_started_again_but_goes_on_with_another_number_of_ranks(tmp_path):
    restarting = [*TORCHRUN, "--max-restarts=2", "--nproc-per-node=2", "-m", "drb.train", *JOB, "run_id=it"]
    run = Running(restarting, tmp_path)
    run.wait_for("after task 2", 90)
    os.kill(ranks_of(run)[0], signal.SIGUSR2)
    ended = run.wait(60)
    assert ended.code == 0, ended
    marker = json.loads((tmp_path / "runs/it/INTERRUPTED").read_text())
    assert not (tmp_path / "runs/it/summary.json").exists()
    main, *others = [rank.wait(100) for rank in start_ranks(4, [*JOB, "run_id=it"], tmp_path)]
    assert [main.code, *(rank.code for rank in others)] == [0] * 4, main
    assert f"{marker['step']} steps done" in main.out
    assert "resumed on 4 ranks from 2: global batch 16, learning rate 0.05" in main.out + main.err
    assert summary(tmp_path)["samples"] == SAMPLES
    assert summary(tmp_path)["world_size"] == 4


def test_a_machine_that_fails_is_done_without(tmp_path):
    endpoint, conf = f"localhost:{free_port()}", "last_call_timeout=10,keep_alive_interval=1,keep_alive_max_attempt=2"
    settings = {"NNODES": "1:2", "RDZV_ENDPOINT": endpoint, "RDZV_ID": "elastic", "RDZV_CONF": conf}
    script = str(ROOT / "launch" / "torchrun.sh")
    machines = [
        Running(
            *([script, *JOB, "training.epochs=15"], tmp_path),
            **{**settings, "NPROC_PER_NODE": "1", "LOCAL_ADDR": "localhost", "NODE_RANK": str(node)},
        )
        for node in (0, 1)
    ]
    deadline = time.monotonic() + 100
    while not any(re.search(r"2 ranks on(.|\n)*after task", machine.out + machine.err) for machine in machines):
        assert time.monotonic() < deadline, [machine.out + machine.err for machine in machines]
        time.sleep(0.05)
    for pid in (machines[1].pid, *ranks_of(machines[1])):
        os.kill(pid, signal.SIGKILL)
    ended = machines[0].wait(100)
    assert ended.code == 0, ended
    assert "resumed on 1 rank from 2: global batch 16" in ended.out + ended.err
    assert summary(tmp_path)["samples"] == 15 * 1438


def meet(store, ranks, world_size, timeout_s):
    """What each rank got, or raised."""

    def arrive(rank):
        try:
            return fresh_store(store, rank, world_size, timeout_s)
        except PeerError as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(arrive, ranks))


def test_each_start_has_a_part_of_the_store_to_itself():
    store = dist.HashStore()
    store.set("drb/word/1", "of a rank before")
    for world_size in (3, 3, 2, 1):
        stores = meet(store, range(world_size), world_size, timeout_s=5)
        assert not stores[0].check(["key"])
        stores[-1].set("key", "value")
        assert [part.get("key") for part in stores] == [b"value"] * world_size
    first, _ = meet(store, (0, 2), 3, timeout_s=0.3)
    assert "ranks [1] of 3 did not arrive" in str(first)
    (lonely,) = meet(store, (1,), 3, timeout_s=0.3)
    assert "rank 1, start: ranks [0] of 3 did not arrive within 0.3 s (start_timeout_s)" in str(lonely)


UUID = "d1bac0fa-4588-4b14-a92d-ebcdd27dd8d4"


@pytest.mark.parametrize(
    ("name", "restarts", "run_id"),
    [("july", "3", "july"), ("july", "0", ""), (UUID, "1", "torchrun-d1bac0fa"), (UUID, "0", ""), ("", "1", "")],
)
def test_a_run_that_may_be_restarted_keeps_its_name(name, restarts, run_id):
    env = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": name, "TORCHELASTIC_MAX_RESTARTS": restarts}
    assert read_place(env).run_id == run_id
    assert read_place(env).restarts == int(restarts)
    unnamed = {**env, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_MAX_RESTARTS": "1"}
    assert read_place(unnamed).run_id == read_place(unnamed).run_id != ""
