"""The groups of the configuration whose choices are variants of a kind, and the schema of each choice.

The schema of a choice is derived from the options of its class. Choices outside drb get theirs when they are chosen: by
the command line or by a configuration file of the user's, never by what a run has saved.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from drb.data.datasets import DATASETS
from drb.data.scenarios import SCENARIOS
from drb.options import Limits
from drb.registry import Registry
from drb.tracking import TRACKERS
from drb.training.method.method import Method
from drb.training.models import MODELS
from drb.training.objectives import OBJECTIVES, Objective
from drb.training.optimizers import OPTIMIZERS
from drb.training.schedules import SCHEDULES
from drb.training.strategies import STRATEGIES, Strategy
from drb.training.terms import TERMS, Term
from drb.variant import Variant, options_of, short_name

SCHEMA = "schema"  # starts the names of dataclasses in Hydra's store, which are no choices of a user's


@dataclass
class VariantConfig:
    """A section whose other settings are the options of the variant that `name` names."""

    variant: ClassVar[type[Variant]]
    name: str = MISSING


@dataclass
class DatasetConfig(VariantConfig):
    """
    changed: what a run does that goes on with other data than it was saved with: refuse, or allow; then every exemplar
             goes to its owner of now, and the epoch begins anew
    removed: with changed=allow, whether exemplars whose sample is gone are kept, or forgotten for good
    """

    changed: str = dataclasses.field(default="refuse", metadata={"limits": Limits(one_of=("refuse", "allow"))})
    removed: str = dataclasses.field(default="keep", metadata={"limits": Limits(one_of=("keep", "forget"))})


@dataclass
class ModelConfig(VariantConfig):
    """
    init: random, torchvision (its pretrained weights, where the model has some) or the path of a .safetensors or torch
          file, of a run, or of a checkpoint.
    head: grows (an output per class seen so far) or fixed (all the dataset's classes from the start).
    """

    init: str = "random"
    head: str = dataclasses.field(default="grows", metadata={"limits": Limits(one_of=("grows", "fixed"))})


@dataclass
class TrackingConfig(VariantConfig):
    """
    enabled: rank 0 logs to the tracker
    plots:   PNG files in the run directory, and in the tracker
    experiment: what the run belongs to in the tracker
    """

    enabled: bool = True
    plots: bool = True
    experiment: str = "drb"


@dataclass(frozen=True)
class Group:
    """A group: the variants that it chooses from, and the settings that all its choices have in common."""

    variants: Registry[Any]
    common: type[VariantConfig] = VariantConfig


GROUPS: Mapping[str, Group] = {
    "dataset": Group(DATASETS, DatasetConfig),
    "scenario": Group(SCENARIOS),
    "model": Group(MODELS, ModelConfig),
    "strategy": Group(STRATEGIES),
    "objective": Group(OBJECTIVES),
    "optimizer": Group(OPTIMIZERS),
    "schedule": Group(SCHEDULES),
    "tracking": Group(TRACKERS, TrackingConfig),
}


TERMS_GROUP = "terms"
"""The group that chooses any number of variants: `terms=[ewc,ema]`; each has its options in `terms.<name>`."""


def register_variants(folder: Path) -> None:
    """Put the schemas of drb's own variants into Hydra's store.

    A variant for which a YAML file in `folder` says other defaults has its schema under another name, for that file.
    """
    for group in GROUPS:
        for name, schema in schemas(group).items():
            has_file = (folder / group / f"{name}.yaml").exists()
            _store(group, f"{SCHEMA}_{name}" if has_file else name, schema)
    ConfigStore.instance().store(group=TERMS_GROUP, name=SCHEMA, node={})  # a group, even if there is none
    for name in TERMS.own:
        _store_term(name)


def register_chosen(group: str, name: str) -> bool:
    """Import a variant from outside drb and put its schema into Hydra's store; False if that is no name of one.

    Raises:
        ValueError: the name is a dotted path or an entry point, and it leads to no variant of this group.
    """
    variants = TERMS if group == TERMS_GROUP else GROUPS[group].variants if group in GROUPS else None
    if variants is None or not ("." in name or name in variants.installed()):
        return False
    if group == TERMS_GROUP:
        _store_term(name)
    else:
        _store(group, name, schema_of(GROUPS[group].variants.find(name), name, GROUPS[group].common))
    return True


def build_variant(group: str, section: VariantConfig) -> Any:
    """The variant that a section of the configuration describes.

    Raises:
        ValueError: options that cannot be meant together.
    """
    return _build(GROUPS[group].variants, section, group)


def build_method(
    strategy: VariantConfig, terms: Mapping[str, VariantConfig], objective: VariantConfig
) -> tuple[Strategy, list[Term], Objective]:
    """The strategy, the terms in their order and the objective that a configuration describes.

    Raises:
        ValueError: options or parts that cannot be meant together.
    """
    base = build_variant("strategy", strategy)
    parts = [_build(TERMS, section, f"{TERMS_GROUP}.{key}") for key, section in terms.items()]
    meaning: Objective = build_variant("objective", objective)
    Method(base, parts).check_objective(meaning)
    return base, parts, meaning


def _build(variants: Registry[Any], section: VariantConfig, where: str) -> Any:
    variant = variants.find(section.name)
    try:
        return variants.build(variant, {name: getattr(section, name) for name in options_of(variant)})
    except ValueError as error:  # which names options by their variant, and a user by their section
        own = rf"(?<![\w.]){re.escape(short_name(variant))}\."
        raise ValueError(re.sub(own, f"{where}.", str(error))) from None


@cache
def schemas(group: str) -> dict[str, type[VariantConfig]]:
    """The schemas of drb's own variants of a group, by name."""
    kind = GROUPS[group]
    return {name: schema_of(variant, name, kind.common) for name, variant in kind.variants.own.items()}


def schema_of(variant: type[Variant], name: str, common: type[VariantConfig]) -> type[VariantConfig]:
    """A dataclass of the options of a variant, for Hydra, with the default `name`.

    Raises:
        ValueError: an option has the name of a setting in `common`, or a type that configurations do not know.
    """
    hints = get_type_hints(variant)
    taken = {field.name for field in dataclasses.fields(common)}
    fields: list[tuple[str, Any, Any]] = [("name", str, dataclasses.field(default=name))]
    for option in options_of(variant).values():
        if option.name in taken:
            raise ValueError(f"the option {option.name} of {name} needs another name: that of a setting")
        fields.append((option.name, *_field(option, hints[option.name])))
    schema = dataclasses.make_dataclass(f"{variant.__name__}Config", fields, bases=(common,), kw_only=True)
    schema.__doc__ = variant.__doc__
    schema.variant = variant  # type: ignore[attr-defined]
    try:
        OmegaConf.structured(schema)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"the options of {name} must be of the types int, float, bool, str, lists or mappings of these, or None: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return schema


def _field(option: dataclasses.Field[Any], hint: Any) -> tuple[Any, Any]:
    """The type and the field by which a schema declares an option."""
    metadata = dict(option.metadata)
    if get_origin(hint) is Literal:  # unknown to OmegaConf
        metadata.setdefault("limits", Limits(one_of=get_args(hint)))
        hint = type(get_args(hint)[0])
    if get_origin(hint) in (Sequence, tuple):
        hint = list[get_args(hint)[0]]  # type: ignore[misc]
    if option.default_factory is not dataclasses.MISSING:
        return hint, dataclasses.field(default_factory=option.default_factory, metadata=metadata)
    default = MISSING if option.default is dataclasses.MISSING else option.default
    return hint, dataclasses.field(default=default, metadata=metadata)


def _store(group: str, choice: str, schema: type[VariantConfig]) -> None:
    ConfigStore.instance().store(group=group, name=choice, node=schema)


def _store_term(name: str) -> None:
    key = name.rpartition(".")[2]
    schema = schema_of(TERMS.find(name), name, VariantConfig)
    ConfigStore.instance().store(group=TERMS_GROUP, name=name, node=schema, package=f"{TERMS_GROUP}.{key}")
