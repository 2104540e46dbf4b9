"""launch/torchrun.sh: two machines, tried as two agents on this one, are one run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys

import psutil
import pytest
from programs import ROOT, TINY, Running, free_port, start_ranks

SCRIPT = str(ROOT / "launch" / "torchrun.sh")


def two_machines(port: int, node: int, **changes: str) -> dict[str, str]:
    endpoint = f"localhost:{port}"
    settings = {"NNODES": "2", "NODE_RANK": str(node), "RDZV_ENDPOINT": endpoint, "RDZV_ID": "july"}
    return {**settings, "NPROC_PER_NODE": "1", "LOCAL_ADDR": "localhost", **changes}


def test_two_agents_are_one_run(tmp_path):
    port = free_port()
    agents = [Running([SCRIPT, *TINY], tmp_path, **two_machines(port, node)) for node in (0, 1)]
    ended = [agent.wait(90) for agent in agents]
    assert [agent.code for agent in ended] == [0, 0], [agent.err for agent in ended]
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["july"]
    assert json.loads((tmp_path / "runs/july/summary.json").read_text())["world_size"] == 2
    assert sorted(agent.out.count("\nafter task 1") for agent in ended) == [0, 1]  # rank 0 alone speaks


def test_a_run_that_is_told_to_stop_ends_with_one_line_and_code_75(tmp_path):
    job = ["experiment=digits", "tracking=none", "training.epochs=100"]
    run = Running([SCRIPT, *job], tmp_path, RDZV_ID="july", NPROC_PER_NODE="1", PYTHON=sys.executable)
    run.wait_for("minibatches|after task 1", 90)
    os.kill(psutil.Process(run.pid).children()[0].pid, signal.SIGUSR2)
    ended = run.wait(60)
    assert ended.code == os.EX_TEMPFAIL, ended
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == "drb: the run was interrupted and saved; the same command goes on"


def test_the_error_of_the_rank_that_failed_first_is_the_last_line(tmp_path):
    """As a user starts it: torchrun and its rank are cold Pythons."""
    python = dict.fromkeys(("PYTHON", "PYTHON_EXEC"), sys.executable)
    ended = Running([SCRIPT, *TINY, "rehearsal.capacity=0"], tmp_path, NPROC_PER_NODE="1", **python).wait()
    assert ended.code == 1, ended
    assert "Traceback" not in ended.err
    assert "rehearsal.capacity" in ended.err.splitlines()[-1]


def test_without_nvidia_smi_there_are_two_ranks_and_made_up_names_differ(tmp_path):
    """The script alone is run: PYTHON prints what it would start."""
    settings = {"PYTHON": "echo", "NPROC_PER_NODE": ""}
    ended = [Running([SCRIPT, *TINY], tmp_path, **settings).wait(20) for _ in range(2)]
    assert [one.code for one in ended] == [0, 0], ended
    assert all("--nproc-per-node=2 " in one.out for one in ended)
    assert len({re.search(r"run_id=(\S+)", one.out)[1] for one in ended}) == 2


def test_the_meeting_point_may_be_an_ipv6_address(tmp_path):
    settings = two_machines(free_port(), 0, RDZV_ENDPOINT=f"[::1]:{free_port()}", PYTHON="echo")
    ended = Running([SCRIPT, *TINY], tmp_path, **settings).wait(20)
    assert ended.code == 0, ended
    assert "--rdzv-endpoint=[::1]:" in ended.out


def test_every_rank_speaks_if_it_is_asked_to(tmp_path):
    """And the first says that there are more threads than cores, which mpirun does not prevent."""
    threads = 1 + (os.cpu_count() or 1)
    ended = [rank.wait() for rank in start_ranks(2, [*TINY, "console=all", f"threads={threads}"], tmp_path)]
    assert [rank.code for rank in ended] == [0, 0], ended
    assert ["[rank 1] after task 1" in rank.out for rank in ended] == [False, True]
    assert ["after task 1" in rank.out for rank in ended] == [True, True]
    assert f"warning: 2 ranks x {threads} threads on " in ended[0].out


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"RDZV_ENDPOINT": "no-such-host.invalid:29400"}, "there is no host no-such-host.invalid"),
        ({"RDZV_ENDPOINT": "localhost"}, "RDZV_ENDPOINT must be host:port, got localhost"),
        ({"NODE_RANK": ""}, "NNODES=2 needs NODE_RANK, this machine's number from 0 to 1"),
        ({"RDZV_ENDPOINT": ""}, "NNODES=2 needs RDZV_ENDPOINT=host:port"),
        ({"START_TIMEOUT": "1"}, "after 1 s: start NODE_RANK=0 there first"),
    ],
)
def test_a_wrong_meeting_point_is_one_line(tmp_path, changes, line):
    ended = Running([SCRIPT, *TINY], tmp_path, **two_machines(free_port(), 1, **changes)).wait(20)
    assert ended.code != 0
    assert line in ended.err
    assert ended.err.count("\n") == 1


def test_a_port_in_use_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = Running([SCRIPT, *TINY], tmp_path, **two_machines(port, 0)).wait(20)
    assert ended.code == 1
    assert ended.errors == [
        f"launch/torchrun.sh: error: RDZV_ENDPOINT=localhost:{port}: port {port} of localhost is in use; choose another"
    ]
