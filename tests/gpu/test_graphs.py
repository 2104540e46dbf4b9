"""examples/cuda_graph.py: graphs learn what eager steps learn, from the same batches."""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
CUDA = torch.device("cuda", 0)
CAN_COMPILE = (
    any(map(shutil.which, ("cc", "gcc", "clang"))) and Path(sysconfig.get_path("include"), "Python.h").exists()
)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_graph", ROOT / "examples/cuda_graph.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_learns_without_a_gpu_and_says_what_needs_one(example):
    losses, _ = example.train("eager", torch.device("cpu"), 25)
    assert len(losses) == 25 - 2  # a minibatch can be drawn from the second step after its own on
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(SystemExit, match="graph: CUDA graphs need a GPU"):
        example.train("graph", torch.device("cpu"), 3)


def learns_what_eager_learns(example: ModuleType, way: str, compared: int) -> None:
    """compared: how many losses must agree. The example's rate is high, so that rounding grows from step to step."""
    expected, _ = example.train("eager", CUDA, 60)
    losses, _ = example.train(way, CUDA, 60)
    assert len(losses) == len(expected) == 58
    assert losses[:compared] == pytest.approx(expected[:compared], rel=0.02, abs=0.01)
    assert statistics.mean(losses[-10:]) < 0.65 * losses[0]  # 0.49 on the CPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_learns_what_eager_steps_learn(example):
    learns_what_eager_learns(example, "graph", 58)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(not CAN_COMPILE, reason="torch.compile needs a C compiler and Python's headers")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is:DeprecationWarning")  # torch's own use of it
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # torch's advice; others are errors
def test_a_compiled_network_learns_what_eager_steps_learn(example):
    learns_what_eager_learns(example, "compiled", 25)
