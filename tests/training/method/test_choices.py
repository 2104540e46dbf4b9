"""What a method chooses by and projects by, against brute force: MIR's candidates, GEM's reference gradients."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from torch import Tensor, nn
from training.method.reference import MaximallyInterferedRetrieval
from training.method.runs import RATE, Watched
from training.parts import make_network, preprocess

from drb.training.method.batch import Batch
from drb.training.method.needs import Needs
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient
from drb.training.strategies import Finetune
from drb.training.terms import Term


class BruteForce(MaximallyInterferedRetrieval):
    """Compares every choice with networks that are trained and evaluated one sample at a time."""

    def __post_init__(self) -> None:
        self._agrees: list[bool] = []

    def select(self, batch: Batch) -> Tensor:
        chosen = super().select(batch)
        before, inputs, labels = copy.deepcopy(batch.step.network), batch.inputs(), batch["label"]
        after = copy.deepcopy(before)
        F.cross_entropy(after(inputs[batch.new]), labels[batch.new]).backward()
        with torch.no_grad():
            for parameter in after.parameters():
                parameter -= RATE * parameter.grad
        rows = range(batch.exemplars.start, batch.exemplars.stop)
        losses = [
            [F.cross_entropy(n(inputs[i : i + 1]), labels[i : i + 1]).item() for i in rows] for n in (after, before)
        ]
        rise = np.subtract(*losses)
        best = np.argsort(-rise)[: batch.num_selected]
        self._agrees.append(set(best.tolist()) == set(chosen.tolist()) and len(rows) > batch.num_selected)
        return chosen


def loss_of(network: nn.Module, inputs: Tensor, labels: Tensor, row: int) -> float:
    return F.cross_entropy(network(inputs[row : row + 1]), labels[row : row + 1]).item()


def test_mir_chooses_the_exemplars_that_a_step_on_the_new_rows_hurts_most():
    strategy = BruteForce(candidates=8)
    trainer = Watched(0, 1, lambda: (strategy, []))
    trainer.run()
    trainer.rehearsal.close()
    assert len(strategy._agrees) > 20
    assert np.mean(strategy._agrees) > 0.9  # the first draws have too few exemplars to choose; nearly equal rises


class TaskReferences(Term):
    """What GEM (Lopez-Paz & Ranzato 2017, arXiv 1706.08840) projects by."""

    def needs(self) -> Needs:
        return Needs(exemplars="apart", references="per_task")

    def project(self, step: Step, gradient: Gradient) -> None:
        arrays = [{n: v.numpy().copy() for n, v in reference.tensors.items()} for reference in step.references]
        weights = {n: v.numpy().copy() for n, v in step.weights.tensors.items()}
        self._seen = (step.number, weights, arrays)


def per_task(rank: int, world_size: int) -> Any:
    term = TaskReferences()
    trainer = Watched(rank, world_size, lambda: (Finetune(), [term]), scenario="task_incremental")
    trainer.run()
    trainer.rehearsal.close()
    number, weights, references = term._seen
    return weights, references, [batch["apart"] for batch in trainer.batches if batch["step"] == number]


def test_reference_gradients_of_each_task_are_means_over_all_ranks_rows():
    ranks = run_ranks(per_task, 2)
    weights, references, _ = ranks[0]
    apart = [fields for rank in ranks for fields in rank[2] if fields]
    both = {n: np.concatenate([fields[n] for fields in apart]) for n in ("image", "label", "task")}
    network = make_network(4, 0)
    network.load_state_dict({n: torch.from_numpy(v) for n, v in weights.items()})
    assert len(references) == 2
    for task, reference in enumerate(references):
        rows = both["task"] == task
        assert rows.any()
        outputs = network(preprocess().evaluate(torch.from_numpy(both["image"][rows])))
        of_others = torch.arange(4) // 2 != task
        loss = F.cross_entropy(outputs.masked_fill(of_others, -torch.inf), torch.from_numpy(both["label"][rows]))
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
            np.testing.assert_allclose(reference[name], gradient.numpy(), rtol=0, atol=1e-6)


def test_reference_gradients_of_each_task_need_a_stream_that_tells_tasks():
    trainer = Watched(0, 1, lambda: (Finetune(), [TaskReferences()]))
    with trainer.rehearsal, pytest.raises(ValueError, match="use scenario=task_incremental"):
        trainer.run()
