"""The full names of all settings, for messages about names that are no setting's, and for values that are text."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_origin, get_type_hints

from drb.options import fits
from drb.program.config.schema import TrainConfig
from drb.program.config.variants import GROUPS, TERMS_GROUP, schemas
from drb.training.terms import TERMS
from drb.variant import options_of

RUN_DIR = "hydra.run.dir"
_OTHER_NAMES = {  # what other programs call a setting
    "batch": "training.batch_size",
    "buffer": "rehearsal.capacity",
    "buffer_size": "rehearsal.capacity",
    "data": "dataset.root",
    "data_dir": "dataset.root",
    "learning_rate": "optimizer.lr",
    "memory_size": "rehearsal.capacity",
    "num_epochs": "training.epochs",
    "output_dir": RUN_DIR,
    "path": "dataset.root",
    "tasks": "scenario.num_tasks",
    "workers": "dataset.workers",
}


@dataclass(frozen=True)
class Setting:
    """A setting.

    Attributes:
        key: its full name.
        is_text: whether a string may be its value.
        is_mapping: whether names of the user's own have values in it.
        choices: the choices of its group that have it, such as `dataset=synthetic`; empty if all have it.
    """

    key: str
    is_text: bool
    is_mapping: bool = False
    choices: tuple[str, ...] = ()


@cache
def every_setting() -> dict[str, Setting]:
    """Every setting of the program by its full name, with the options of drb's own variants."""
    found: dict[str, Setting] = {RUN_DIR: Setting(RUN_DIR, True)}
    for setting in (*_settings_of(TrainConfig), *_options_of_groups(), *_options_of_terms()):
        known = found.get(setting.key)
        found[setting.key] = setting if known is None else dataclasses.replace(
            known, choices=known.choices and known.choices + setting.choices
        )  # fmt: skip
    return found


def similar_setting(key: str) -> str | None:
    """The setting that a user may have meant by a name that is none, or None.

    A name without its section, or in a wrong one, counts first (`epochs`, `train.epochs`), then a misspelt one.
    """
    settings, name = every_setting(), key.rpartition(".")[2]
    if key in settings:
        return None
    if namesakes := [known for known in settings if known.rpartition(".")[2] == name and known != name]:
        return _closest(key, namesakes, 0.0)
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    return _closest(key, list(settings), 0.75) or _closest_last_part(name, list(settings))


def _closest(key: str, known: list[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(key, known, 1, cutoff)), None)


def _closest_last_part(name: str, known: list[str]) -> str | None:
    by_name = {key.rpartition(".")[2]: key for key in reversed(known)}
    close = _closest(name, list(by_name), 0.8)
    return None if close is None else by_name[close]


def _settings_of(section: Any, prefix: str = "") -> Iterator[Setting]:
    hints = get_type_hints(section)
    for field in dataclasses.fields(section):
        name = f"{prefix}{field.name}"
        if isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
            yield from _settings_of(field.default_factory, f"{name}.")
        elif not (prefix and field.name == "name"):
            yield Setting(name, fits("", hints[field.name]), _is_mapping(hints[field.name]))


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) in (dict, Mapping)


def _options_of_groups() -> Iterator[Setting]:
    for group, kind in GROUPS.items():
        common = {field.name for field in dataclasses.fields(kind.common)}
        for choice, schema in schemas(group).items():
            for setting in _settings_of(schema, f"{group}."):
                if setting.key.partition(".")[2] not in common:
                    yield dataclasses.replace(setting, choices=(f"{group}={choice}",))


def _options_of_terms() -> Iterator[Setting]:
    for name, term in TERMS.own.items():
        for option in options_of(term):
            yield Setting(f"{TERMS_GROUP}.{name}.{option}", False, choices=(f"{TERMS_GROUP}=[{name}]",))
