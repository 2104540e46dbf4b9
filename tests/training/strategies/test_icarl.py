"""iCaRL on two ranks, against one process: its loss, the exemplars it keeps, and what it predicts."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from torch import Tensor, nn
from training.method.replay import Pair, Replay, network_at_the_end, rows_of
from training.method.runs import SAMPLES, case
from training.parts import preprocess, small_dataset, small_trainer

from drb import Rehearsal
from drb.training.strategies import STRATEGIES
from drb.training.strategies.icarl import herd

CAPACITY = 20  # of two ranks


def icarl():
    return STRATEGIES.build("icarl"), []


CASES = {"icarl": (icarl, {})}


@functools.cache
def results() -> list[dict[str, Any]]:
    return [result["icarl"] for result in run_ranks(case, 2, CASES, timeout=60)]


def stored() -> dict[int, int]:
    """The class of each sample that is stored in the end."""
    parts = [result["stored"] for result in results()]
    return {int(i): int(label) for s in parts for i, label in zip(s["sample_id"], s["label"], strict=True)}


def features_of(network: nn.Module, rows: list[int]) -> Tensor:
    images = small_dataset(SAMPLES).train.gather(np.array(rows))["image"]
    with torch.no_grad():
        return F.normalize(network.eval().features(preprocess().evaluate(images))).double()


def best_list(network: nn.Module, label: int, size: int) -> list[int]:
    """One sample after the other, by trying all."""
    train = small_dataset(SAMPLES).train
    rows = [i for i in range(SAMPLES) if int(train.labels[i]) == label]
    features = features_of(network, rows)
    listed: list[int] = []
    for _ in range(size):
        means = {i: (features[[*listed, i]].mean(0) - features.mean(0)).norm() for i in range(len(rows))}
        listed.append(min((i for i in means if i not in listed), key=lambda i: float(means[i])))
    return [int(train.sample_ids[rows[i]]) for i in listed]


def test_icarl_is_binary_cross_entropy_with_old_classes_taught_and_keeps_the_herded_lists():
    replay = Replay(results())
    teachers: list[nn.Module] = []

    def of_batch(pair: Pair) -> Tensor:
        both = rows_of(pair, lambda batch: slice(None), "image", "label")
        outputs, labels = replay.outputs(both), torch.from_numpy(both["label"])
        target = torch.stack([(labels == c).float() for c in range(outputs.shape[1])], dim=1)
        if teachers:
            target[:, :2] = replay.outputs(both, teachers[0]).detach().sigmoid()
        probability = outputs.sigmoid()
        return -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()

    replay.run_loss(of_batch, end_task=lambda: teachers.append(copy.deepcopy(replay.network)))
    kept = stored()
    size = CAPACITY // 4
    assert Counter(kept.values()) == dict.fromkeys(range(4), size)
    for label in range(4):  # the first task's lists were twice as long, and keep their first places
        assert {i for i, of in kept.items() if of == label} == set(best_list(teachers[label // 2], label, size))


def test_exemplars_stay_the_same_within_a_task():
    seen = [
        set(b["fields"]["sample_id"][b["new"] :].tolist()) for r in results() for b in r["batches"] if b["step"] > 4
    ]
    assert set.union(*seen) <= set(np.flatnonzero(small_dataset(SAMPLES).train.labels < 2).tolist())
    assert len(set.union(*seen)) > CAPACITY / 2


def test_icarl_predicts_the_class_whose_exemplars_mean_is_nearest():
    network, kept = network_at_the_end(results()), stored()
    means = [features_of(network, [i for i, of in kept.items() if of == label]).mean(0) for label in range(4)]
    everything = features_of(network, list(range(SAMPLES)))
    expected = torch.stack([-(everything - mean / mean.norm()).norm(dim=1) for mean in means], dim=1)
    for result in results():
        np.testing.assert_allclose(result["predictions"], expected.numpy(), rtol=0, atol=1e-5)


def test_a_run_resumed_at_an_odd_step_ends_bit_identically():
    left, right = results()
    assert left["digests"] == right["digests"]
    for result in (left, right):
        assert result["again"] == result["first"]


def test_herding_without_samples_and_with_more_places_than_samples():
    assert herd(torch.zeros(0, 3), 2).tolist() == []
    assert sorted(herd(torch.randn(3, 2, generator=torch.Generator().manual_seed(1)), 9).tolist()) == [0, 1, 2]


def small_icarl(rehearsal: Any, scenario: str = "class_incremental", **options: Any) -> Any:
    return small_trainer(small_dataset(40), icarl()[0], rehearsal=rehearsal, scenario=scenario, **options)


def test_what_icarl_needs_is_said_in_one_line():
    with (
        Rehearsal(10, 2, verbose=False) as rehearsal,
        pytest.raises(ValueError, match="rehearsal.admission=closed, got"),
    ):
        small_icarl(rehearsal)
    with Rehearsal(10, 2, admission="closed", verbose=False) as rehearsal:
        with pytest.raises(ValueError, match="stores nothing by itself, and er does not either"):
            small_trainer(small_dataset(40), STRATEGIES.build("er"), rehearsal=rehearsal)
        with pytest.raises(ValueError, match="task 2 .* has the class 0 again; use scenario=class_incremental"):
            small_icarl(rehearsal, "domain_incremental").run()
    with (
        Rehearsal(3, 2, admission="closed", verbose=False) as rehearsal,
        pytest.raises(ValueError, match="is 3 on all"),
    ):
        small_icarl(rehearsal).run()
