"""One line for whatever Hydra or OmegaConf has to say about a command line: key, value, and what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from drb.options import closest, one_of_phrase
from drb.program.config.keys import every_setting, similar_setting
from drb.program.config.variants import GROUPS, SCHEMA, TERMS_GROUP
from drb.training.terms import TERMS
from drb.variant import why_no_option

_KINDS = {"Integer": "an integer", "Float": "a number", "Boolean": "true or false", "String": "a string"}


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """One line that names the key, the value and what is allowed, as far as the error knows them."""
    if isinstance(error, OverrideParseException):
        return not_understood(str(error.override))
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error, arguments)
    flat = _flat(error)
    if match := re.match(r"In 'experiment/(\w+)': \w+ raised while composing config:.*full_key: (\S+)", flat):
        return _misfit_of_experiment(match[1], match[2], arguments)
    if re.match(r"Ambiguous value for argument|Sweep parameters", str(error)):
        return next(not_understood(argument) for argument in arguments if repr(argument) in str(error))
    if match := re.match(rf"Could not override '({TERMS_GROUP}\.[^']*)'", flat):
        return _option_of_no_term(match[1], arguments)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = str(getattr(cause, "full_key", None) or "")
    text = str(cause).splitlines()[0]
    if re.match(r"Key '.*' not in '", text):
        section, argument = getattr(cause, "object_type", None), _argument(key, arguments) or key
        variant = getattr(section, "variant", None)
        why = "" if variant is None else why_no_option(variant, key.rpartition(".")[2])
        return f"{argument}: {why}" if why else unknown_key(argument, _fields(section), key)
    return _wrong_value(key, text, _value(key, arguments)) or flat.partition(" full_key:")[0]


def not_understood(argument: str) -> str:
    """What to write instead of an argument that is no `key=value` in Hydra's syntax."""
    key, equals, value = argument.partition("=")
    name = key.lstrip("-").replace("-", "_")
    meant = name if name in every_setting() else similar_setting(name)
    if key.startswith("-"):
        example = f"{meant}={value or '…'}" if meant else "key=value"
        return f"{argument} is not understood: settings are written without dashes, {example}"
    if not equals:
        example = f"{meant}=…" if meant else "key=value or group=choice"
        return f"{argument!r} is not understood: write {example}"
    if key in every_setting() and not every_setting()[key].is_text:
        return f"{argument} is not understood: write one value, {key}=value, or a list, '{key}=[a,b]'"
    return (
        f"{argument} is not understood: write key=value or group=choice; lists are written 'key=[a,b]', and text with "
        f"signs that mean something here is quoted, {shlex.quote(as_text(argument))}"
    )


def as_text(argument: str) -> str:
    """The argument with its value in Hydra's quotes, so that it is text whatever it contains."""
    key, _, value = argument.partition("=")
    value = re.sub(r'(\\*)"', r'\1\1\\"', value)
    value = re.sub(r"(\\+)$", r"\1\1", value)
    return f'{key}="{value}"'


def unknown_key(argument: str, known: Collection[str], wrong: str | None = None) -> str:
    """
    Args:
        argument: as it was typed, `key=value`.
        known: the keys that its section has.
        wrong: how much of the key is unknown; all if None.
    """
    key = argument.lstrip("+~").partition("=")[0]
    section = (wrong or key).rpartition(".")[0]
    listing = f"{section or 'the program'} has {', '.join(sorted(known))}"
    if key in every_setting():
        return f"{argument}: only {one_of_phrase(every_setting()[key].choices)} has the setting {key}; {listing}"
    if section and (close := difflib.get_close_matches(key.rpartition(".")[2], known, 1)):
        return f"{argument}: there is no setting {key}; did you mean {section}.{close[0]}? {listing}"
    similar = similar_setting(key)
    if similar and section in GROUPS and similar.startswith(f"{section}."):
        choices = one_of_phrase(every_setting()[similar].choices)
        is_close = difflib.get_close_matches(key.rpartition(".")[2], [similar.rpartition(".")[2]], 1, 0.8)
        meant = f"; did you mean {similar}, which only {choices} has?" if is_close else ";"
        return f"{argument}: there is no setting {key}{meant} {listing}"
    if similar:
        return f"{argument}: there is no setting {key}; did you mean {similar}? {listing if section else _HOW_TO_LIST}"
    return f"{argument}: there is no setting {key}; {listing}"


_HOW_TO_LIST = "drb train --cfg lists all settings"


def _unknown_choice(error: MissingConfigException, arguments: Sequence[str]) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    known = [option for option in error.options or () if not (option.startswith(SCHEMA) or "." in option)]
    if group == TERMS_GROUP:
        return f"{_argument(TERMS_GROUP, arguments)}: there is no term {choice}; {TERMS.advice(choice)}"
    if group in GROUPS:
        return f"{group}={choice} is unknown; {GROUPS[group].variants.advice(choice, known)}"
    return f"{group}={choice} is unknown; {closest(choice, known)}choose {one_of_phrase(known)}"


def _option_of_no_term(key: str, arguments: Sequence[str]) -> str:
    """An option of a term that was not chosen, or that is called by its path."""
    argument = _argument(key, arguments)
    path, _, option = key.removeprefix(f"{TERMS_GROUP}.").rpartition(".")
    name, value = path.rpartition(".")[2], argument.partition("=")[2]
    if path != name:
        return f"{argument}: options of a term belong to the name of its class: write terms.{name}.{option}={value}"
    given = next((each for each in arguments if each.startswith(f"{TERMS_GROUP}=")), "")
    chosen = re.findall(r"[\w.]+", given.partition("=")[2])
    new = name if name in TERMS else f"my_module.{name}"
    there = f" ({', '.join(each.rpartition('.')[2] for each in chosen)} is)" if chosen else ""
    terms = ",".join([*chosen, new])
    return f"{argument}: the term {name} is not chosen{there}; write '{TERMS_GROUP}=[{terms}]' to add it"


def _misfit_of_experiment(experiment: str, key: str, arguments: Sequence[str]) -> str:
    """An experiment gives options to a variant, and the command line has chosen another variant."""
    group, _, option = key.partition(".")
    choice = _argument(group, arguments) or group
    return (
        f"{choice} has no option {option} as experiment={experiment} sets it: leave out {choice}, or write "
        "experiment=none and the settings that you need"
    )


def _wrong_value(key: str, text: str, value: object) -> str | None:
    if match := re.match(r"Value '(.*)' \(?of type '\w+'\)? could not be converted to (\w+)", text):
        return f"{key} must be {_KINDS.get(match[2], match[2])}, got {match[1]!r}"
    if match := re.match(r"Value '(.*)' of type '\w+' is incompatible with type hint '(.*)'", text):
        types = re.findall(r"\b(?!Union|Optional)\w+", match[2])
        return f"{key} must be of type {one_of_phrase(types)}, got {match[1]}"
    if "is not Optional" in text:
        return f"{key} needs a value, got null"
    if "missing mandatory value" in text:
        return f"{key} must be given"
    if "is not a ListConfig" in text:
        return f"{key} must be a list such as [1,2], got {value}"
    if "Invalid type assigned" in text:
        return f"{key} is a group of settings, got {value}; set {key}.<setting>"
    return None


def _argument(key: str, arguments: Sequence[str]) -> str:
    """The argument that sets this key or one inside it, as it was typed; empty if there is none."""
    for argument in arguments:
        name = argument.lstrip("+~").partition("=")[0]
        if name == key or name.startswith(f"{key}."):
            return argument.lstrip("+~")
    return ""


def _value(key: str, arguments: Sequence[str]) -> str:
    return _argument(key, arguments).partition("=")[2] or "?"


def _fields(section: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(section)] if dataclasses.is_dataclass(section) else []


def _flat(error: Exception) -> str:
    """The text of an error on one line, without what helps only who knows Hydra."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith(("See https", "object_type")))
