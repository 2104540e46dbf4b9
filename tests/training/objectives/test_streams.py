"""Rehearsal on streams that are not classification: on two ranks, and by configuration alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from programs import start_ranks
from ranks import run_ranks
from training.parts import weights

from drb import Rehearsal
from drb.data.datasets import DATASETS
from drb.data.scenarios import build_scenario
from drb.distributed.world import World
from drb.training import Adam, Constant, Trainer, TrainingSettings
from drb.training.augment import Preprocess
from drb.training.method.method import Method
from drb.training.models import build_model
from drb.training.objectives import OBJECTIVES
from drb.training.strategies import ExperienceReplay

# by objective: its options, the data set, the model and its options, and the metric that counts
STREAMS: dict[str, tuple[dict[str, Any], str, str, dict[str, Any], str]] = {
    "multilabel": ({}, "mixtures", "mlp", {"hidden": [32]}, "f1"),
    "regression": ({"target": "strength"}, "mixtures", "mlp", {"hidden": [32]}, "error"),
    "reconstruction": ({}, "diffraction", "encoder_decoder", {"width": 4, "hidden": 16}, "error"),
    "forecasting": ({}, "drifting_series", "mlp", {"hidden": [32]}, "error"),
    "anomaly": ({}, "drifting_series", "mlp", {"hidden": [16, 6, 16]}, "auroc"),
}


def train(rank: int, world_size: int) -> dict[str, Any]:
    """Each objective with experience replay, on two tasks of two classes each."""
    results = {}
    for name, (options, data, model, model_options, _) in STREAMS.items():
        objective, strategy = OBJECTIVES.build(name, options), ExperienceReplay()
        dataset = DATASETS.build(data, {"num_train": 400, "num_test": 160}).load(print)
        scenario = build_scenario("class_incremental", dataset, seed=0, num_tasks=2)

        def network(num_outputs: int, task: int, of=(model, dataset.image_shape, model_options)) -> Any:
            return build_model(of[0], of[1], num_outputs, seed=task, **of[2])

        draws = Method(strategy).draws.total
        with Rehearsal(60, 8, draws=draws, batch_size=9, verbose=False) as rehearsal:
            trainer = Trainer(
                scenario,
                network,
                Preprocess(mean=[0.0], std=[1.0]),
                strategy,
                objective=objective,
                world=World(rank, world_size),
                training=TrainingSettings(batch_size=8, epochs=4),
                optimizer=Adam(lr=0.003),
                schedule=Constant(),
                rehearsal=rehearsal,
            )
            trainer.run()
        results[name] = trainer.scores.summary(), weights(trainer.network)
    return results


def test_experience_replay_learns_every_objective_on_two_ranks():
    left, right = run_ranks(train, 2, timeout=90)
    for name, (*_, metric) in STREAMS.items():
        (summary, state), (other, others) = left[name], right[name]
        assert all((value == others[key]).all() for key, value in state.items()), name
        assert summary == other
        assert summary["metric"] == metric
        matrix, baselines = summary[f"{metric}_matrix"], summary["baselines"]
        sign = 1 if summary["higher_is_better"] else -1
        assert sign * matrix[1][1] > sign * baselines[1], name
        assert sign * matrix[1][0] > sign * baselines[0], name


@pytest.mark.parametrize("name", STREAMS)
def test_stored_outputs_are_rehearsed_by_configuration_alone(name, tmp_path):
    options, data, model, model_options, metric = STREAMS[name]
    arguments = [
        "experiment=none",
        "strategy=der",
        "terms=[ema,logit_refresh]",
        f"objective={name}",
        *(f"objective.{key}={value}" for key, value in options.items()),
        f"dataset={data}",
        "dataset.num_train=120",
        "dataset.num_test=60",
        f"model={model}",
        *(f"model.{key}={value}".replace(" ", "") for key, value in model_options.items()),
        "scenario.num_tasks=2",
        "optimizer=adam",
        "training.batch_size=8",
        "rehearsal.capacity=30",
        "rehearsal.exemplars=4",
        "tracking=none",
        "checkpoint=none",
        "threads=1",
        f"hydra.run.dir={tmp_path}",
    ]
    (ended,) = [ran.wait(60) for ran in start_ranks(1, arguments, tmp_path)]
    assert ended.code == 0, ended
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metric"] == metric
    assert len(summary[f"{metric}_matrix"]) == 2
    assert summary["cost"]["rows_forward"] > 0  # what was stored was refreshed
