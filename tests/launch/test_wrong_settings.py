"""Whatever is wrong with how a run is started: one clear line and an exit code, well within half a minute."""

from __future__ import annotations

import socket
import sys

import pytest
from programs import TINY, TORCHRUN, Running, free_port, place_of

# as many CUDA devices as the first argument says, but no driver: everything before a device is used runs as with them
FAKE_DEVICES = """
import sys
from types import SimpleNamespace
import torch
import torch.distributed as dist
num_devices = int(sys.argv.pop(1))
torch.cuda.is_available = lambda: num_devices > 0
torch.cuda.device_count = lambda: num_devices
torch.cuda.set_device = lambda device: None
torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid="GPU-one")
init_process_group = dist.init_process_group
dist.init_process_group = lambda backend, **settings: init_process_group("gloo", **settings)
from drb.train import main
sys.exit(main())
"""

# heartbeats without a pause: a rank that left while another talks to the store that it keeps would be seen
BEATING = """
import sys
import drb.distributed.heartbeat
drb.distributed.heartbeat.BEAT_S = 0.0
from drb.train import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("num_devices", "line"),
    [
        (
            0,
            "local rank 0 needs a CUDA device of its own, but this machine shows 0; start fewer ranks per node or set "
            "device=cpu",
        ),
        (
            1,
            f"ranks 0 and 1 share one CUDA device, GPU-one of {socket.gethostname()}; start fewer ranks per node, show "
            "each rank its own device, or set device=cpu",
        ),
    ],
)
def test_more_ranks_than_devices(tmp_path, num_devices, line):
    program = tmp_path / "program.py"
    program.write_text(FAKE_DEVICES)
    command = [*TORCHRUN, "--nproc-per-node=2", str(program), str(num_devices), *TINY, "device=cuda"]
    ended = Running(command, tmp_path).wait()
    assert ended.code != 0
    assert ended.seconds < 30
    told, *late = ended.errors
    assert told == f"drb: error: {line}"
    assert "".join(ended.err.split()[-40:]).count(f"drb: error: {line}".replace(" ", "")) == 1  # again, at the very end
    assert len(late) <= 1  # rank 1 speaks, too, if a busy torchrun has not ended it in five seconds


def test_ranks_started_with_different_arguments(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(BEATING)
    port = free_port()
    arguments = [TINY, [*TINY, "seed=1", "training.batch_size=32"]]
    command = [sys.executable, str(program)]
    ranks = [Running([*command, *arguments[rank]], tmp_path, **place_of(rank, 2, port)) for rank in (0, 1)]
    main, other = [rank.wait() for rank in ranks]
    message = "rank 1 was started with seed=1 (rank 0: 0), training.batch_size=32 (rank 0: 16); start all ranks with "
    assert (main.code, other.code) == (1, 1)
    assert main.seconds < 30
    assert main.err == f"drb: error: {message}the same arguments and the same drb\n"
    assert other.err == f"drb: [rank 1] error: {message}the same arguments and the same drb\n"
    assert main.out == ""


def test_exchange_shared_across_nodes(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from drb import Rehearsal\n"
        "Rehearsal._factory.node = lambda: 'node' + os.environ['RANK']\n"
        "from drb.train import main\n"
        "sys.exit(main())\n"
    )
    command = [*TORCHRUN, "--nproc-per-node=2", str(program), *TINY, "rehearsal.exchange=shared"]
    ended = Running(command, tmp_path).wait()
    assert ended.code != 0
    assert ended.seconds < 30
    assert ended.errors == [
        "drb: error: exchange=shared needs all ranks on one node, they are on 2; use exchange=auto or hierarchical"
    ]
