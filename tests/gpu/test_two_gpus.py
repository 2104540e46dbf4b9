"""Two ranks on two GPUs: rows over NCCL beside DDP's all-reduces, equal to rows over shared memory.

python -m pytest -m gpu tests/gpu/test_two_gpus.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
    pytest.mark.timeout(600),
]
TESTS = Path(__file__).resolve().parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def run(*command: str, **environment: str) -> str:
    """On two ranks; a hang ends with the time limit, after NCCL's own has told where."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    ended = subprocess.run(
        [*TORCHRUN, *command],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


def train(exchange: str, steps: int = 200, **environment: str) -> list[list[object]]:
    results: list[list[object]] = json.loads(
        run(str(TESTS / "gpu/two_ranks.py"), exchange, str(steps), **environment).splitlines()[-1]
    )
    for _, wrong, exemplars, _ in results:
        assert wrong == 0
        assert exemplars == 8 * (steps - 2) - 8  # two rounds ahead, and what was stored a step before
    return results


def test_rows_over_nccl_equal_those_over_shared_memory():
    assert train("nccl") == train("shared")


def test_rows_in_the_memory_of_the_gpus_equal_those_in_shared_memory():
    assert train("device") == train("shared")


def test_rows_over_nccl_with_one_hardware_queue():
    """As Megatron sets it: work of all streams is then executed in the order in which it was launched."""
    assert train("nccl", CUDA_DEVICE_MAX_CONNECTIONS="1") == train("collective")


def test_many_steps_beside_all_reduces_do_not_hang():
    train("nccl", steps=330)


@pytest.mark.parametrize("exchange", ["shared", "nccl"])
def test_the_program_trains_on_two_gpus(exchange, tmp_path):
    settings = ["experiment=digits", "device=cuda", "tracking=none", f"hydra.run.dir={tmp_path}", "rehearsal.depth=2"]
    run("-m", "drb.train", *settings, f"rehearsal.exchange={exchange}")
    assert json.loads((tmp_path / "summary.json").read_text())["acc"] > 0.8
