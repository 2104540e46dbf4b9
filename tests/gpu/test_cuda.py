"""What needs a CUDA device: page-locked memory is not written while copies from it are queued, and training runs.

python -m pytest -m gpu
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from rehearsal.ranks.streams import num_wrong, records

from drb import Rehearsal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WORDS = 1 << 15  # copies that take a while


@pytest.mark.parametrize("asynchronous", [True, False])
def test_copies_to_the_device_are_done_before_their_memory_is_written_again(asynchronous):
    wrong = []
    busy = torch.randn(4096, 4096, device="cuda")
    with Rehearsal(capacity=64, exemplars=16, seed=0, asynchronous=asynchronous, verbose=False) as rehearsal:
        for t in range(50):
            batch = rehearsal.extend(records(range(t * 16, t * 16 + 16), WORDS))
            assert batch["image"].is_pinned() or not batch["rehearsed"].any()
            for _ in range(8):
                busy = busy @ busy / 4096  # the copy below waits behind this, the host does not
            wrong.append({name: value.to("cuda", non_blocking=True) for name, value in batch.items()})
    assert sum(num_wrong({k: v.cpu() for k, v in batch.items()}, WORDS) for batch in wrong) == 0


def test_a_minibatch_on_the_device_comes_back_there():
    with Rehearsal(capacity=64, exemplars=16, seed=0, verbose=False) as rehearsal:
        for t in range(5):
            minibatch = {k: v.cuda() for k, v in records(range(t * 16, t * 16 + 16)).items()}
            batch = rehearsal.extend(minibatch)
            assert {value.device.type for value in batch.values()} <= {"cuda"} or t < 2
            assert num_wrong({k: v.cpu() for k, v in batch.items()}) == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_program_trains_on_the_device(precision, tmp_path):
    settings = ["experiment=digits", "device=cuda", f"training.precision={precision}", "tracking=none"]
    command = [sys.executable, "-m", "drb.train", *settings, f"hydra.run.dir={tmp_path}"]
    subprocess.run(command, check=True, timeout=110)
    assert json.loads((tmp_path / "summary.json").read_text())["acc"] > 0.8
