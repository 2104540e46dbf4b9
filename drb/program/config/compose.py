"""Puts a run's configuration together from the YAML groups and the command line, with Hydra.

Hydra composes and nothing else: it makes no directory, writes no file, sets up no logging and changes no folder, so
that N ranks do what one would. What is wrong with a command line is explained in one line (`explain`), where Hydra
would print a trace.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from drb.options import one_of_phrase
from drb.program.config.explain import as_text, explain, unknown_key
from drb.program.config.keys import every_setting
from drb.program.config.rehearsal import KINDS, RehearsalConfig
from drb.program.config.schema import TrainConfig
from drb.program.config.variants import GROUPS, SCHEMA, TERMS_GROUP, register_chosen, register_variants
from drb.variant import options_of

STUDIES = "study"  # the folder there that is no group of settings, but has the files of `drb study`
_DEFAULT_DATASET = "digits"  # as configs/train.yaml says, and the experiment there is about


def config_folder() -> Path:
    """Where the YAML files are: in a wheel and in a checkout (there a link to the folder at its top)."""
    return Path(__file__).resolve().parents[2] / "configs"


def compose_config(arguments: Sequence[str], run_id: str | None = None) -> tuple[TrainConfig, Path]:
    """The configuration and the run directory that a command line asks for.

    Args:
        arguments: `key=value` or `group=choice`, in Hydra's syntax.
        run_id: of this run unless one is given; None makes one up, of the run's name and the time.
    Raises:
        ValueError: one line, if the arguments make no configuration. Limits of values are not checked here.
    """
    _register_schema()
    try:
        arguments = _with_text_quoted(arguments)
        overrides = OverridesParser.create().parse_overrides(arguments)
        _refuse_additions(overrides)
        _refuse_odd_choices(overrides)
        _refuse_files_as_data(overrides)
        _refuse_repeated_terms(overrides)
        composed = _compose([_as_addition(argument) for argument in [*arguments, *_no_experiment(overrides)]])
        if composed.run_id is None:
            composed.run_id = run_id or _new_run_id(composed.name or composed.strategy.name.rpartition(".")[2])
        run_dir, choices = Path(composed.hydra.run.dir), composed.hydra.runtime.choices
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        _refuse_numbers_as_booleans(composed, overrides)
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error, arguments)) from error
    assert isinstance(config, TrainConfig)
    _refuse_unknown_keys(composed, config)
    _refuse_left_over_options(config.rehearsal, overrides, choices)
    return config, run_dir


def _with_text_quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments, with quotes round text that Hydra's grammar would not take as one value: `name=a(b)`."""
    return [as_text(argument) if _is_unquoted_text(argument) else argument for argument in arguments]


def _is_unquoted_text(argument: str) -> bool:
    key, equals, value = argument.partition("=")
    setting = every_setting().get(key)
    if not equals or setting is None or not setting.is_text or value[:1] in ("'", '"'):
        return False
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return True
    return override.is_sweep_override() or not isinstance(override.value(), (str, int, float, bool, type(None)))


def _new_run_id(run_name: str) -> str:
    name = re.sub(r"[^\w.+-]+", "-", run_name)
    return f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"


def _no_experiment(overrides: Sequence[Override]) -> list[str]:
    """Settings of the experiment that is there by default are meant for its data set: another one goes without them."""
    chosen = {override.key_or_group: override.value() for override in overrides}
    is_other = chosen.get("dataset", _DEFAULT_DATASET) != _DEFAULT_DATASET
    return ["experiment=none"] if is_other and "experiment" not in chosen else []


def _as_addition(argument: str) -> str:
    """A setting with names of the user's own as Hydra wants to be given them; whoever reads it checks them."""
    key = argument.partition("=")[0]
    is_option = any(argument.startswith(f"rehearsal.{kind}_options.") for kind in KINDS)
    if key.partition(".")[0] in GROUPS:
        is_option |= any((known := every_setting().get(name)) and known.is_mapping for name in (key, *_parents(key)))
    return f"++{argument}" if is_option else argument


def _parents(key: str) -> list[str]:
    """a.b.c: a.b and a."""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _compose(arguments: list[str]) -> DictConfig:
    """Compose, with the schema of each variant from outside drb once Hydra asks for it."""
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            return hydra.compose("train", arguments, return_hydra_config=True)
    except MissingConfigException as error:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if not register_chosen(group, choice):
            raise
    return _compose(arguments)


def to_yaml(config: TrainConfig) -> str:
    """The whole configuration, as it can be read again."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


@cache  # Hydra's store lives as long as the process
def _register_schema() -> None:
    store = ConfigStore.instance()
    store.store(name=SCHEMA, node=TrainConfig)
    register_variants(config_folder())


def _refuse_additions(overrides: Sequence[Override]) -> None:
    for override in overrides:
        if override.is_delete() or (override.is_add() and not override.is_force_add()):
            raise ValueError(f"{override.input_line}: settings cannot be added or deleted; write key=value")


def _refuse_odd_choices(overrides: Sequence[Override]) -> None:
    """A number, null or a list in place of a choice's name."""
    for override in overrides:
        group = override.key_or_group
        folder = config_folder() / group
        if (folder.is_dir() or group in GROUPS) and not isinstance(override.value(), (str, dict)):
            known = sorted({*(path.stem for path in folder.glob("*.yaml")), *_names(group)})
            raise ValueError(f"{override.input_line} is unknown; choose {one_of_phrase(known)}")


def _refuse_files_as_data(overrides: Sequence[Override]) -> None:
    """A path in place of the name of a kind of data."""
    for override in overrides:
        value = override.value() if override.key_or_group == "dataset" else None
        if isinstance(value, str) and ("/" in value or Path(value).suffix[1:] in _SUFFIXES):
            raise ValueError(
                f"dataset={value} is a path, and dataset= names a kind of data: for a folder of pictures write "
                f"dataset=image_folder dataset.root={value}, for arrays a class that loads them, as "
                "examples/float_data.py does"
            )


_SUFFIXES = ("npz", "npy", "csv", "h5", "hdf5", "parquet", "pt", "zip", "tar", "json")


def _refuse_repeated_terms(overrides: Sequence[Override]) -> None:
    """Hydra would merge two terms of one name without a word."""
    for override in overrides:
        if override.key_or_group == TERMS_GROUP and isinstance(names := override.value(), list):
            if odd := [name for name in names if not isinstance(name, str)]:
                raise ValueError(f"{override.input_line}: a term is a name or the dotted path of a class, got {odd[0]}")
            keys = [name.rpartition(".")[2] for name in names]
            if repeated := [key for key in keys if keys.count(key) > 1]:
                raise ValueError(f"{override.input_line}: the term {repeated[0]} is named twice; give each term once")


def _refuse_left_over_options(section: RehearsalConfig, overrides: Sequence[Override], choices: DictConfig) -> None:
    """The files' options for one admission policy (exchange …), where the command line has chosen another one."""
    given = {override.key_or_group for override in overrides}
    for setting, variants in KINDS.items():
        chosen, options = getattr(section, setting), getattr(section, f"{setting}_options")
        known = options_of(variants.own[chosen]) if chosen in variants.own else options
        for option in options.keys() - known.keys():
            if f"rehearsal.{setting}_options.{option}" not in given:
                raise ValueError(
                    f"rehearsal.{setting}={chosen} has no option {option} as experiment={choices.experiment} with "
                    f"rehearsal={choices.rehearsal} sets it: leave out what chooses {chosen}, or write experiment=none "
                    "rehearsal=reservoir and the settings that you need"
                )


def _names(group: str) -> list[str]:
    return GROUPS[group].variants.names() if group in GROUPS else []


def _refuse_numbers_as_booleans(composed: DictConfig, overrides: Sequence[Override]) -> None:
    """OmegaConf would read 2 as true."""
    for override in overrides:
        if isinstance(OmegaConf.select(composed, override.key_or_group), bool):
            value = override.value()
            if not isinstance(value, (bool, str)):
                raise ValueError(f"{override.key_or_group} must be true or false, got {value!r}")


def _refuse_unknown_keys(composed: DictConfig, config: Any, prefix: str = "") -> None:
    """Force-added keys (++key=value) pass Hydra's own check."""
    declared = set(config) if isinstance(config, dict) else {field.name for field in dataclasses.fields(config)}
    for key, value in composed.items_ex(resolve=False):
        name = str(key)
        if name not in declared:
            raise ValueError(unknown_key(f"{prefix}{name}={value}", declared))
        section = config[name] if isinstance(config, dict) else getattr(config, name)
        if isinstance(value, DictConfig) and (dataclasses.is_dataclass(section) or name == TERMS_GROUP):
            _refuse_unknown_keys(value, section, f"{prefix}{name}.")
