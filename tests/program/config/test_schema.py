"""Every choice has a YAML file and a dataclass, whose fields are exactly the options of what it configures."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from drb import Rehearsal
from drb.data.datasets import DATASETS
from drb.data.scenarios import SCENARIOS
from drb.program.config import check_config, compose_config, to_yaml
from drb.program.config.compose import config_folder
from drb.program.config.schema import CHOICES, RehearsalConfig
from drb.rehearsal.settings import RehearsalSettings
from drb.training.models import MODELS

# what the program itself passes, and what belongs to the group as a whole
PASSED = {
    "dataset": {"root", "known_classes"},
    "scenario": {"dataset", "seed", "validation"},
    "model": {"image_shape", "num_classes", "seed"},
}
CACHE = {"cache", "cache_dir", "cache_limit"}
COMMON = {"dataset": {"name", "root", *CACHE}, "scenario": {"name", "validation"}, "model": {"name", "init", "head"}}
REGISTRIES = {"dataset": DATASETS, "scenario": SCENARIOS, "model": MODELS}


def names(folder: str) -> set[str]:
    return {path.stem for path in (config_folder() / folder).glob("*.yaml")}


@pytest.mark.parametrize("group", CHOICES)
def test_the_choices_are_what_there_is(group):
    assert set(CHOICES[group]) == set(REGISTRIES[group]) == names(group)


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g, choices in CHOICES.items() for c in choices])
def test_options_are_the_parameters_of_what_is_configured(group, choice):
    options = {field.name for field in fields(CHOICES[group][choice])} - COMMON[group]
    assert options == set(signature(REGISTRIES[group][choice]).parameters) - PASSED[group]


def test_the_rehearsals_settings_are_its_parameters():
    own = {"exemplars_scope", "allow_duplicates"}
    passed = {
        "seed",
        "spec",
        "process_group",
        "sample_id",
        "uneven",
        "batch_size",
        "num_samples",
        "draws",
        "device",
        "verbose",
    }
    assert {f.name for f in fields(RehearsalConfig)} - own == set(signature(Rehearsal).parameters) - passed


def test_the_rehearsals_defaults_and_choices_are_its_own():
    for name in ("admission", "proportions", "exchange", "capacity_scope", "asynchronous"):
        limits = next(f for f in fields(RehearsalConfig) if f.name == name).metadata["limits"]
        for choice in limits.one_of:
            options = {name: choice, "candidates": 2 if choice == "random_replacement" else None}
            RehearsalSettings(capacity=10, exemplars=2, depth=2 if choice == "nccl" else 1, **options)


@pytest.mark.parametrize("experiment", sorted(names("experiment")))
def test_every_experiment_composes_and_is_valid(experiment):
    config, run_dir = compose_config([f"experiment={experiment}"], "some-id")
    check_config(config, world_size=2)
    assert run_dir == Path("runs/some-id")
    assert "training:" in to_yaml(config)


@pytest.mark.parametrize(
    "group", ["rehearsal", "optimizer", "schedule", "augmentation", "checkpoint", "tracking", "strategy"]
)
def test_every_choice_of_the_other_groups_is_valid(group):
    for choice in names(group):
        config, _ = compose_config([f"{group}={choice}"], "id")
        check_config(config, world_size=2)


def test_the_online_setting_is_what_peers_use():
    config, _ = compose_config(["experiment=fashion_mnist_online"], "id")
    assert (config.training.epochs, config.training.batch_size, config.training.batch_scope) == (1, 10, "total")
    assert (config.rehearsal.exemplars, config.rehearsal.exemplars_scope) == (10, "total")
    assert (config.rehearsal.capacity, config.rehearsal.capacity_scope) == (500, "total")
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.momentum) == ("sgd", 0.1, 0.0)
    assert (config.optimizer.lr_scaling, config.schedule.is_constant) == ("none", True)
    assert (config.augmentation.normalise, config.augmentation.flip, config.augmentation.crop_padding) == (
        False,
        False,
        0,
    )
    assert (config.model.name, config.model.head) == ("mlp", "fixed")


def test_run_id_and_run_directory_are_respected():
    assert compose_config(["run_id=mine"], "id")[1] == Path("runs/mine")
    assert compose_config(["hydra.run.dir=some/where"], "id")[1] == Path("some/where")
