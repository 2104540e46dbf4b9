"""Losses, scores and Fisher information of the objectives that are not classification, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from drb.training.objectives import OBJECTIVES


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores(objective, outputs, batch, parts: int = 3) -> dict[str, float]:
    """From sums over several batches, as evaluation has them."""
    rows = np.array_split(np.arange(len(next(iter(batch.values())))), parts)
    each = [objective.scorer(None, None)(outputs[r], {n: v[r] for n, v in batch.items()}) for r in rows]
    return objective.values({name: sum(sums[name].double() for sums in each) for name in each[0]})


def test_f1_and_exact_matches_count_all_classes_of_all_samples():
    objective = OBJECTIVES.build("multilabel")
    logits, present = noise(50, 4), (noise(50, 4, seed=1) > 0.3).to(torch.uint8)
    found, there = (logits >= 0).numpy(), present.bool().numpy()
    precision, recall = (found & there).sum() / found.sum(), (found & there).sum() / there.sum()
    result = scores(objective, logits, {"image": noise(50, 3), "present": present})
    assert math.isclose(result["f1"], 2 * precision * recall / (precision + recall), rel_tol=1e-6)
    assert math.isclose(result["exact"], (found == there).all(1).mean(), rel_tol=1e-6)
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    assert math.isclose(result["loss"], -np.log(np.where(there, p, 1 - p)).mean(), rel_tol=1e-5)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    objective = OBJECTIVES.build("anomaly")
    series, is_anomaly = noise(300, 6, 2), (noise(300, seed=2) > 0.5).long()
    outputs = series.flatten(1) + noise(300, 12, seed=3) * (1 + is_anomaly)[:, None] * 0.3
    errors = (outputs - series.flatten(1)).square().mean(1).numpy()
    anomalous, normal = errors[is_anomaly == 1], errors[is_anomaly == 0]
    pairs = (anomalous[:, None] > normal).mean()
    assert 0.6 < pairs < 0.999
    result = scores(objective, outputs, {"series": series, "anomaly": is_anomaly})
    assert abs(result["auroc"] - pairs) < 2e-3
    assert math.isclose(result["error"], normal.mean(), rel_tol=1e-5)
    only_normal = {"series": series[:5], "anomaly": torch.zeros(5, dtype=torch.int64)}
    assert math.isnan(scores(objective, outputs[:5], only_normal)["auroc"])


def test_skill_compares_with_repeating_the_last_step():
    objective = OBJECTIVES.build("forecasting")
    series, future = noise(40, 5, 2), noise(40, 3, 2, seed=1)
    outputs = future.flatten(1) + 0.5
    result = scores(objective, outputs, {"series": series, "future": future})
    assert math.isclose(result["error"], 0.25, rel_tol=1e-5)
    persistence = (future - series[:, -1:]).square().mean().item()
    assert math.isclose(result["skill"], 1 - 0.25 / persistence, rel_tol=1e-5)


def test_a_reconstruction_counts_all_numbers_of_all_fields():
    objective = OBJECTIVES.build("reconstruction", {"fields": ["amplitude", "phase"]})
    batch = {"image": noise(8, 1, 4, 4), "amplitude": noise(8, 1, 4, 4, seed=1), "phase": noise(8, 1, 2, 2, seed=2)}
    outputs = (batch["amplitude"] + 1, batch["phase"] + 2)
    losses = objective.row_losses(outputs, batch)
    torch.testing.assert_close(losses, torch.full((8,), (16 * 1 + 4 * 4) / 20))
    assert objective.max_columns(batch, 7) == 20


@pytest.mark.parametrize("name", ["regression", "multilabel", "classification"])
def test_squared_gradients_of_fisher_terms_add_up_to_the_expected_square_of_the_score(name):
    """The expectation over targets drawn from what the outputs say, by quadrature or over all targets."""
    objective = OBJECTIVES.build(name, {"target": "target"})
    outputs = noise(1, 3).double().requires_grad_()
    batch = {"image": noise(1, 2), "target": torch.zeros(1, 3)}
    terms = objective.fisher_terms(outputs, batch)
    found = sum(torch.autograd.grad(t, outputs, retain_graph=True)[0].square() for t in terms[0])[0]

    def square_of_score(target: torch.Tensor) -> torch.Tensor:
        value = objective.row_losses(outputs, {"image": batch["image"], "target": target[None]})
        return torch.autograd.grad(value.sum(), outputs)[0][0].square()

    if name == "regression":  # minus a mean of squares over 3: a normal distribution with the variance 3 / 2
        points, weights = np.polynomial.hermite_e.hermegauss(5)
        expected = torch.zeros(3, dtype=torch.float64)
        for place in range(3):
            for point, weight in zip(points, weights / weights.sum(), strict=True):
                target = outputs.detach()[0].clone()
                target[place] += point * math.sqrt(1.5)
                expected[place] += weight * square_of_score(target)[place]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        return
    if name == "multilabel":
        targets = [torch.tensor(bits, dtype=torch.float64) for bits in np.ndindex(2, 2, 2)]
        p = outputs.detach().sigmoid()[0]
        chances = [float(torch.where(t > 0, p, 1 - p).prod()) for t in targets]
    else:
        targets, chances = [torch.tensor(c) for c in range(3)], outputs.detach().softmax(1)[0].tolist()
    expected = sum(c * square_of_score(t) for c, t in zip(chances, targets, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "batch", "message"),
    [
        ("regression", {"target": "height"}, {"image": noise(1, 2)}, "objective.target names the field 'height'"),
        ("reconstruction", {"fields": ["depth"]}, {"image": noise(1, 2)}, "objective.fields names the field 'depth'"),
    ],
)
def test_a_field_that_is_not_there_is_named(name, options, batch, message):
    with pytest.raises(ValueError, match=message):
        OBJECTIVES.build(name, options).row_losses(noise(1, 3), batch)


def test_outputs_of_another_size_are_refused():
    batch = {"image": noise(2, 3), "target": noise(2, 4), "present": torch.ones(2, 4)}
    for name in ("regression", "multilabel"):
        with pytest.raises(ValueError, match="choose a model with as many outputs"):
            OBJECTIVES.build(name).row_losses(noise(2, 3), batch)


def test_what_has_no_classes_says_so():
    with pytest.raises(ValueError, match="regression has no classes"):
        OBJECTIVES.build("regression").labels({})


def test_a_target_may_be_a_single_number():
    objective = OBJECTIVES.build("regression", {"target": "age"})
    batch = {"image": noise(4, 3), "age": torch.arange(4)}
    assert objective.max_columns(batch, 7) == 1
    assert objective.row_losses(torch.zeros(4, 1), batch).tolist() == [0, 1, 4, 9]
    assert objective.row_losses(torch.zeros(0, 1), {name: field[:0] for name, field in batch.items()}).tolist() == []
