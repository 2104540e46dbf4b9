"""examples/cuda_graph.py: graphs learn what eager steps learn, from the same batches."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
CUDA = torch.device("cuda", 0)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("way", ["graph", "compiled"])
def test_graphs_learn_what_eager_steps_learn(example, way):
    expected, _ = example.train("eager", CUDA, 60)
    losses, _ = example.train(way, CUDA, 60)
    assert len(losses) == len(expected)
    assert losses == pytest.approx(expected, rel=0.02, abs=0.01)
    assert losses[-1] < losses[0] / 2
