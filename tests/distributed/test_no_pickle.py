"""Nothing that a peer sends is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch.distributed as dist
from ranks import run_ranks

import drb
from drb.checkpoint.coordinator import Coordinator
from drb.checkpoint.files import FileRecord
from drb.distributed.world import World


def gather(rank, world_size):
    def fail(*_, **__):
        raise AssertionError("a pickle was read")

    pickle.loads = pickle.Unpickler = dist.distributed_c10d._unpickler = fail
    coordinator = Coordinator(World(rank, world_size), 20.0)
    values = coordinator.gather({"é": [rank, None, 2**60], "file": FileRecord(rank, "0a")})
    results = coordinator.run_on_all(lambda: ({"a": FileRecord(9, "x")}, rank))
    return values == [{"é": [r, None, 2**60], "file": FileRecord(r, "0a")} for r in range(world_size)], results[1]


def test_ranks_that_save_together_send_no_pickle():
    assert run_ranks(gather, 2) == [(True, [{"a": FileRecord(9, "x")}, 1])] * 2


def test_no_module_calls_a_collective_of_objects():
    package = Path(drb.__file__).parent
    names = ("gather_object", "broadcast_object", "scatter_object", "send_object", "recv_object")
    texts = {path.name: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert [file for file, text in texts.items() if any(name in text for name in names)] == []
