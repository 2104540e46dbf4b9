"""Ranks that share one real GPU and read one another's rows there: equal to rows in shared host memory, and an end.

python -m pytest -m gpu tests/gpu/test_shared_device.py
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import SPAWNS, collect_ranks, run_ranks
from rehearsal.ranks.streams import ids_of_rank, num_wrong, records

from drb import Rehearsal
from drb.distributed.failure import PeerError
from drb.distributed.heartbeat import heartbeat

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WORDS = 384  # an image of 3 · 32 · 32 bytes
ROWS, CAPACITY, EXEMPLARS, STEPS = 32, 96, 8, 60


def minibatch(ids: np.ndarray, t: int) -> dict[str, torch.Tensor]:
    values = records(torch.from_numpy(ids[t * ROWS : (t + 1) * ROWS].copy()), WORDS)
    return {name: value.cuda() for name, value in values.items()}


def seen_by(rank, world_size, storage, settings):
    """A digest of all that was returned, how many rows of it are wrong, exemplars and what is stored in the end.

    The GPU is kept busy for random times, so that ranks and streams are late now and then.
    """
    rng, ids = random.Random(rank), ids_of_rank(rank, world_size, ROWS * STEPS)
    batches, digest, wrong, exemplars = [], hashlib.sha256(), 0, 0
    with Rehearsal(CAPACITY, EXEMPLARS, seed=3, storage=storage, verbose=False, **settings) as rehearsal:
        for t in range(STEPS):
            given = minibatch(ids, t)
            if rng.random() < 0.4:
                torch.cuda._sleep(rng.randrange(1_000_000, 12_000_000))
            batch = rehearsal.extend(given)
            batches.append({name: value.clone() for name, value in batch.items()})
        for batch in batches:
            here = {name: value.cpu() for name, value in batch.items()}
            wrong += num_wrong(here, WORDS)
            exemplars += int(here["rehearsed"].sum())
            for name in sorted(here):
                digest.update(here[name].numpy().tobytes())
        return digest.hexdigest(), wrong, exemplars, sorted(rehearsal.sample_ids().tolist())


def on_host_and_device(rank, world_size):
    torch.cuda.init()
    return [
        [seen_by(rank, world_size, storage, settings) for storage in ("host", "device")]
        for settings in ({}, {"admission": "fifo", "depth": 2})
    ]


@pytest.mark.parametrize("world_size", [2, 4])
def test_rows_in_gpu_memory_equal_rows_in_host_memory(world_size):
    for settings in run_ranks(on_host_and_device, world_size, timeout=50, context=SPAWNS):
        for host, device in settings:
            assert device[1] == 0
            assert device == host
            assert device[2] > EXEMPLARS * (STEPS - 5)


def free_bytes_after_each(rank, world_size):
    """What is free on the GPU before, while and after a rehearsal of 4 GiB per rank, as all ranks see it."""
    free = []

    def look():
        gc.collect()
        torch.cuda.synchronize()
        dist.barrier()
        free.append(torch.cuda.mem_get_info()[0])
        dist.barrier()

    ids = ids_of_rank(rank, world_size, 2 * ROWS)
    for _ in range(3):
        rehearsal = Rehearsal("4GiB", EXEMPLARS, storage="device", verbose=False)
        rehearsal.extend(minibatch(ids, 0))
        look()
        rehearsal.close()
        del rehearsal
        look()
    return free


def test_memory_is_given_back():
    for during, after, *later in run_ranks(free_bytes_after_each, 2, timeout=50, context=SPAWNS):
        assert after - during >= 4 << 30  # more than other tests take or give back meanwhile
        assert later[-1] >= after - (4 << 30)  # no rehearsal leaves anything


def kill_one(rank, world_size, with_work):
    """Rank 1 ends after 20 steps. with_work: with rows that its GPU is still to write, because they wait for late
    fields."""
    heartbeat()
    ids = ids_of_rank(rank, world_size, ROWS * STEPS)
    spec = {name: (value.dtype, tuple(value.shape[1:])) for name, value in records([0], WORDS).items()}
    spec = {"image": spec["image"], "label": spec["label"], "logits": (torch.float32, (4,), True)}
    with Rehearsal(
        CAPACITY, EXEMPLARS, spec=spec, admission="fifo", storage="device", timeout_s=15, verbose=False
    ) as rehearsal:
        for t in range(STEPS):
            rehearsal.extend(minibatch(ids, t))
            if t == 20 and rank == 1:
                if with_work:
                    time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
            if t == 19 and rank == 1 and with_work:
                torch.cuda._sleep(6_000_000_000)  # seconds
            rehearsal.attach(logits=torch.full((ROWS, 4), float(t), device="cuda"))
            time.sleep(0.01)


@pytest.mark.parametrize("with_work", [False, True])
def test_a_killed_rank_is_named_by_the_others(with_work):
    _, failures = collect_ranks(kill_one, 3, with_work, timeout=50, patience=12, gloo_timeout=15, context=SPAWNS)
    assert set(failures) == {0, 1, 2}
    assert "exit code -9" in failures[1]
    for rank in (0, 2):
        assert PeerError.__name__ in failures[rank]
        assert "rank 1" in failures[rank].splitlines()[-1]
