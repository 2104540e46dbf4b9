"""What a method projects by, against one process: a reference gradient for each earlier task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ranks import run_ranks
from training.method.runs import Watched
from training.parts import make_network, preprocess

from drb.training.method.needs import Needs
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient
from drb.training.strategies import Finetune
from drb.training.terms import Term


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
    trainer = Watched(rank, world_size, lambda: (Finetune(), [term]))
    trainer.run()
    trainer.rehearsal.close()
    number, weights, references = term._seen
    return weights, references, [batch["apart"] for batch in trainer.batches if batch["step"] == number]


def test_reference_gradients_of_each_earlier_task_are_means_over_all_ranks_rows():
    ranks = run_ranks(per_task, 2)
    weights, references, _ = ranks[0]
    apart = [fields for rank in ranks for fields in rank[2] if fields]
    both = {n: np.concatenate([fields[n] for fields in apart]) for n in ("image", "label")}
    network = make_network(4, 0)
    network.load_state_dict({n: torch.from_numpy(v) for n, v in weights.items()})
    assert len(references) == 1
    rows = both["label"] < 2
    assert rows.any()
    assert not rows.all()
    outputs = network(preprocess().evaluate(torch.from_numpy(both["image"][rows])))
    gradients = torch.autograd.grad(
        F.cross_entropy(outputs, torch.from_numpy(both["label"][rows])), list(network.parameters())
    )
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        np.testing.assert_allclose(references[0][name], gradient.numpy(), rtol=0, atol=1e-6)
