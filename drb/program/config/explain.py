"""One line for whatever Hydra or OmegaConf has to say about a command line."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from drb.options import one_of_phrase

SCHEMA = "schema"  # starts the names of dataclasses in Hydra's store, which are no choices of a user's

_KINDS = {"Integer": "an integer", "Float": "a number", "Boolean": "true or false", "String": "a string"}


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """Names the key, the value and what is allowed, as far as the error knows them."""
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not understood: write key=value or group=choice, lists as key=[a,b]"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        known = [option for option in error.options if not option.startswith(SCHEMA)]
        return f"{group}={choice} is unknown; choose {one_of_phrase(known)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = str(getattr(cause, "full_key", None) or "")
    text = str(cause).splitlines()[0]
    if re.match(r"Key '.*' not in '", text):
        return unknown_key(key, _value(key, arguments), _fields(getattr(cause, "object_type", None)))
    return _wrong_value(key, text, _value(key, arguments)) or _on_one_line(error)


def unknown_key(key: str, value: object, known: Collection[str]) -> str:
    """`known`: the keys that its section has."""
    section, _, name = key.rpartition(".")
    prefix = f"{section}." if section else ""
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {prefix}{close[0]}? " if close else ""
    return f"{key}={value}: there is no setting {key}; {hint}{section or 'the program'} has {', '.join(sorted(known))}"


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


def _value(key: str, arguments: Sequence[str]) -> str:
    """What the command line gives to this key or to one inside it."""
    for argument in arguments:
        name, _, value = argument.lstrip("+~").partition("=")
        if name == key or name.startswith(f"{key}."):
            return value
    return "?"


def _fields(section: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(section)] if dataclasses.is_dataclass(section) else []


def _on_one_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith(("See https", "object_type", "full_key:")))
