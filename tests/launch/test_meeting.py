"""Ranks that cannot meet, or that a launcher did not make one world: the program says so in one line."""

from __future__ import annotations

import socket

from programs import TINY, TRAIN, Running, free_port, place_of


def test_master_addr_where_nobody_listens(tmp_path):
    port = free_port()
    ended = Running([*TRAIN, *TINY, "start_timeout_s=2"], tmp_path, **place_of(1, 2, port)).wait()
    assert ended.code == 1
    assert ended.seconds < 30
    assert f"cannot reach rank 0 at 127.0.0.1:{port}" in ended.err
    assert ended.err.count("\n") == 1


def test_master_port_in_use(tmp_path):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        ended = Running([*TRAIN, *TINY], tmp_path, **place_of(0, 2, port)).wait()
    assert ended.code == 1
    assert ended.seconds < 30
    assert f"drb: error: rank 0 cannot listen at port {port} of " in ended.err
    assert ended.err.count("\n") == 1


def test_one_process_where_the_job_asked_for_several(tmp_path):
    ended = Running([*TRAIN, *TINY], tmp_path, SLURM_JOB_ID="7", SLURM_NTASKS="4").wait()
    assert ended.code == 1
    assert ended.seconds < 30
    assert ended.err.startswith("drb: error: this Slurm job has 4 tasks")
    assert ended.err.count("\n") == 1
