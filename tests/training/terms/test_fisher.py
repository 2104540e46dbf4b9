"""The Fisher information of a linear model, in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from training.parts import SHAPE, preprocess, small_dataset, small_trainer

from drb.training.models import build_model
from drb.training.objectives import OBJECTIVES
from drb.training.strategies import Finetune
from drb.training.terms import ElasticWeightConsolidation, SlicedCramerPreservation


def linear(num_classes, task):
    return build_model("mlp", SHAPE, num_classes, seed=task, hidden=[])


@pytest.mark.parametrize("fisher", ["empirical", "true"])
def test_the_fisher_information_of_softmax_regression(fisher):
    """∂ log p_y / ∂ W_cj = (1[y = c] − p_c) x_j; its square's expectation over y ~ p is p_c (1 − p_c) x_j²."""
    term = ElasticWeightConsolidation(fisher=fisher)
    data = small_dataset(60)
    trainer = small_trainer(
        data, Finetune(), terms=[term], network=linear, scenario_options={"num_tasks": 1}, batch_size=7
    )
    trainer.run()
    everything = data.train.gather(np.arange(60))
    x = preprocess().evaluate(everything["image"]).flatten(1).double().numpy()
    weight, bias = (getattr(trainer.network.head, name).detach().double().numpy() for name in ("weight", "bias"))
    exponentials = np.exp(x @ weight.T + bias)
    p = exponentials / exponentials.sum(1, keepdims=True)
    labels = np.eye(4)[everything["label"].numpy()]
    squares = (labels - p) ** 2 if fisher == "empirical" else p * (1 - p)
    np.testing.assert_allclose(term.importance.tensors["head.weight"], squares.T @ x**2 / 60, rtol=1e-4)
    np.testing.assert_allclose(term.importance.tensors["head.bias"], squares.mean(0), rtol=1e-4)


def test_an_objective_that_has_no_distribution_has_no_true_fisher_information():
    class Nothing(OBJECTIVES.base):
        pass

    with pytest.raises(ValueError, match="use fisher=empirical"):
        Nothing().fisher_terms(None, {})


def test_scp_over_all_directions_is_what_many_directions_come_to():
    few, all_of_them = (importance_of(SlicedCramerPreservation(directions=directions)) for directions in (3000, None))
    assert all_of_them.max() > 0
    np.testing.assert_allclose(few, all_of_them, rtol=0.15, atol=0.01 * all_of_them.max())


def importance_of(term):
    trainer = small_trainer(small_dataset(40), Finetune(), terms=[term], network=linear, batch_size=10)
    trainer.run()
    return term.importance.tensors["head.weight"].numpy()
