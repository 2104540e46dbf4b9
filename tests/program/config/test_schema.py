"""Every choice has a YAML file and a dataclass, whose fields are exactly the options of what it configures."""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import get_type_hints

import pytest

from drb import Rehearsal
from drb.program.config import check_config, compose_config, to_yaml
from drb.program.config.compose import config_folder
from drb.program.config.rehearsal import KINDS, RehearsalConfig, image_codec, rehearsal_settings
from drb.program.config.variants import GROUPS, build_variant
from drb.rehearsal.settings import RehearsalSettings
from drb.variant import name_of, options_of


def names(folder: str) -> set[str]:
    return {path.stem for path in (config_folder() / folder).glob("*.yaml")}


@pytest.mark.parametrize("nth", range(max(len(group.variants.own) for group in GROUPS.values())))
def test_every_variant_composes_and_has_its_own_options_and_defaults(nth):
    """The nth of each group in one configuration: composing takes longer than all the rest."""
    choices = {name: sorted(group.variants.own)[nth % len(group.variants.own)] for name, group in GROUPS.items()}
    config, _ = compose_config([f"{group}={choice}" for group, choice in choices.items()], "id")
    for group, choice in choices.items():
        section, kind = getattr(config, group), GROUPS[group]
        options = options_of(kind.variants.find(choice))
        assert {f.name for f in fields(section)} == {f.name for f in fields(kind.common)} | set(options), choice
        assert type(build_variant(group, section)) is kind.variants.find(choice), choice


@pytest.mark.parametrize("group", GROUPS)
def test_files_of_a_group_are_other_defaults_of_its_variants(group):
    assert names(group) <= set(GROUPS[group].variants.own)


def test_the_rehearsals_settings_are_its_parameters_with_the_same_defaults():
    parameters = signature(Rehearsal).parameters
    others = {"spec", "process_group", "device", "verbose"}
    settings = {f.name: f for f in fields(RehearsalSettings)}
    assert set(parameters) - others == set(settings)
    for name, field in settings.items():
        assert parameters[name].default == (Parameter.empty if field.default is MISSING else field.default), name
        assert f"\n        {name}: " in Rehearsal.__doc__, name


def test_the_configuration_of_a_rehearsal_has_its_settings_with_the_same_defaults_and_limits():
    config, settings = ({f.name: f for f in fields(kind)} for kind in (RehearsalConfig, RehearsalSettings))
    options = {f"{kind}_options" for kind in KINDS}
    assert set(config) - set(settings) == {"exemplars_scope", "allow_duplicates", "codec", *options}
    assert set(settings) - set(config) == {
        "seed",
        "sample_id",
        "uneven",
        "draws",
        "importance",
        "batch_size",
        "num_samples",
        "data",
    }
    hints, others = get_type_hints(RehearsalConfig), get_type_hints(RehearsalSettings)
    for name in set(config) & set(settings):
        assert config[name].metadata == settings[name].metadata, name
        if name not in ("capacity", "exemplars"):
            assert config[name].default == settings[name].default, name
        if name not in (*KINDS, "asynchronous", "exemplars"):
            assert hints[name] == others[name], name


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, variants in KINDS.items() for name in variants.own])
def test_every_variant_of_a_rehearsal_can_be_configured(kind, name):
    compressed = ["rehearsal.codec_options.max_bytes=99"]
    extra = {"random_replacement": ["rehearsal.candidates=2"], "nccl": ["rehearsal.depth=2"]}.get(name, [])
    extra += ["rehearsal.proportions_options.shares=[[1],[1,1]]"] if name == "schedule" else []
    extra += compressed if name in ("deflate", "png", "jpeg") else []
    config, _ = compose_config([f"rehearsal.{kind}={name}", *extra], "id")
    settings = rehearsal_settings(config.rehearsal, config.training, 0, 1, 100)
    chosen = {"admission": settings.policy, "proportions": settings.shares, "exchange": settings.transport}
    chosen["codec"] = image_codec(config.rehearsal)
    assert name_of(chosen[kind]) == name


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
    assert (config.optimizer.lr_scaling, build_variant("schedule", config.schedule).is_constant) == ("none", True)
    assert (config.augmentation.normalise, config.augmentation.flip, config.augmentation.crop_padding) == (
        False,
        False,
        0,
    )
    assert (config.model.name, config.model.head) == ("mlp", "fixed")


def test_a_minibatch_is_extended_by_as_many_exemplars_as_it_has_rows_unless_told_otherwise():
    def exemplars(*settings: str) -> int | str:
        config, _ = compose_config(["experiment=none", *settings], "id")
        return rehearsal_settings(config.rehearsal, config.training, 0, 2, 100).exemplars

    assert exemplars() == 32
    assert exemplars("training.batch_size=24", "training.batch_scope=total") == 12
    assert exemplars("training.batch_size=24", "rehearsal.exemplars=7") == 7


def test_run_id_and_run_directory_are_respected():
    assert compose_config(["run_id=mine"], "id")[1] == Path("runs/mine")
    assert compose_config(["hydra.run.dir=some/where"], "id")[1] == Path("some/where")
