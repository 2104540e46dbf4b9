"""What needs a CUDA device: page-locked memory is not written while copies from it are queued, and training runs.

python -m pytest -m gpu
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from rehearsal.ranks.streams import num_wrong, records
from torch.profiler import ProfilerActivity, profile
from training.method.reference import DarkExperienceReplayPlusPlus
from training.parts import small_dataset, small_trainer

from drb import Rehearsal
from drb.distributed.world import World
from drb.training.method.method import Method
from drb.training.strategies import ExperienceReplay

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WORDS = 1 << 13  # copies of a megabyte


@pytest.mark.parametrize("asynchronous", [True, False])
def test_copies_to_the_device_are_done_before_their_memory_is_written_again(asynchronous):
    wrong = []
    with Rehearsal(capacity=64, exemplars=16, seed=0, asynchronous=asynchronous, verbose=False) as rehearsal:
        for t in range(24):
            batch = rehearsal.extend(records(range(t * 16, t * 16 + 16), WORDS))
            assert batch["image"].is_pinned() or not batch["rehearsed"].any()
            torch.cuda._sleep(20_000_000)  # the copy below waits behind this, the host does not
            wrong.append({name: value.to("cuda", non_blocking=True) for name, value in batch.items()})
    assert sum(num_wrong({k: v.cpu() for k, v in batch.items()}, WORDS) for batch in wrong) == 0


def test_a_minibatch_on_the_device_comes_back_there():
    with Rehearsal(capacity=64, exemplars=16, seed=0, verbose=False) as rehearsal:
        for t in range(5):
            minibatch = {k: v.cuda() for k, v in records(range(t * 16, t * 16 + 16)).items()}
            batch = rehearsal.extend(minibatch)
            assert {value.device.type for value in batch.values()} <= {"cuda"} or t < 2
            assert num_wrong({k: v.cpu() for k, v in batch.items()}) == 0


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")
@pytest.mark.parametrize("strategy", [ExperienceReplay, DarkExperienceReplayPlusPlus])
def test_the_loop_moves_nothing_pageable_to_the_device(strategy, tmp_path):
    """In steps, that is: not while a task begins."""
    dataset, method, world = small_dataset(512), Method(strategy()), World(device=torch.device("cuda", 0))
    spec = None
    if method.needs.late:
        spec = method.needs.record_of(dataset.train.gather(np.zeros(1, np.int64)), max_outputs=4)
    steps = Counter()

    def on_step():
        steps["done"] += 1
        if steps["done"] == 20:
            profiler.start()
        elif steps["done"] == 30:
            profiler.stop()

    profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    with Rehearsal(64, 8, draws=method.draws.total, spec=spec, batch_size=9, device=world.device) as rehearsal:
        trainer = small_trainer(
            dataset, strategy(), world=world, rehearsal=rehearsal, batch_size=8, on_step=on_step,
            scenario_options={"num_tasks": 1},
        )  # fmt: skip
        trainer.run()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    copies = [event for event in events if event.get("cat") == "gpu_memcpy"]
    assert copies
    large = [e["name"] for e in copies if "HtoD" in e["name"] and e["args"]["bytes"] >= 128]  # images of a minibatch
    assert large, "the minibatches were not seen on their way"
    assert not [name for name in large if "Pageable" in name]


def test_the_program_trains_on_the_device_in_each_precision(tmp_path):
    started = {}
    for precision in ("fp32", "bf16", "fp16"):  # at the same time
        settings = ["experiment=digits", "device=cuda", f"training.precision={precision}", "tracking=none"]
        command = [sys.executable, "-m", "drb.train", *settings, f"hydra.run.dir={tmp_path / precision}"]
        started[precision] = subprocess.Popen(command)
    try:
        assert {precision: run.wait(50) for precision, run in started.items()} == dict.fromkeys(started, 0)
    finally:
        for run in started.values():
            run.kill()
            run.wait()
    for precision in started:
        assert json.loads((tmp_path / precision / "summary.json").read_text())["acc"] > 0.8, precision
