"""Limits of settings, written where a setting is declared and checked in one place.

A settings dataclass (of the trainer, the optimizer, a program's configuration) declares `lr: float = setting(0.1,
above=0)`. `check_settings` walks a dataclass and its nested dataclasses and raises one `ValueError` naming the first
setting out of its limits, its value and what is allowed. `None` is always within the limits: whether a field may be
None is its type's business.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, SupportsIndex, TypeVar, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Limits:
    """What a setting may be: a range, or one of some values."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    one_of: tuple[object, ...] | None = None

    def allow(self, value: Any) -> bool:
        if self.one_of is not None:
            # True == 1, but a choice that allows 1 does not allow True
            return any(value == choice and type(value) is type(choice) for choice in self.one_of)
        items = value if isinstance(value, (list, tuple)) else [value]
        return all(self._allow_number(item) for item in items if isinstance(item, (int, float)))

    def __str__(self) -> str:
        if self.one_of is not None:
            return one_of_phrase(self.one_of)
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)

    def _allow_number(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


def limits(
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: Sequence[object] | None = None,
) -> dict[str, Limits]:
    """The metadata of a dataclass field; for a list, the limits are those of each of its numbers."""
    return {"limits": Limits(at_least, above, at_most, below, None if one_of is None else tuple(one_of))}


def setting(default: Any, **bounds: Any) -> Any:
    """A dataclass field with a default and the given `limits`; a list or a mapping is copied for every object."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=limits(**bounds))
    return field(default=default, metadata=limits(**bounds))


def same_as(settings: type, name: str) -> Any:
    """A dataclass field with the default and the limits of a field of another dataclass."""
    other = {field.name: field for field in fields(settings)}[name]
    if other.default_factory is not MISSING:
        return field(default_factory=other.default_factory, metadata=other.metadata)
    return field(default=other.default, metadata=other.metadata)


def required(**bounds: Any) -> Any:
    """A dataclass field without a default, with the given `limits`."""
    return field(metadata=limits(**bounds))


def check_settings(settings: Any, prefix: str = "") -> None:
    """Check the type and the limits of every field of a settings dataclass and of the dataclasses inside it.

    Raises:
        ValueError: one line with the setting's full name, its value and what is allowed.
    """
    hints = _hints(settings.__class__)
    for declared in fields(settings):
        value = getattr(settings, declared.name)
        name = f"{prefix}{declared.name}"
        bounds: Limits | None = declared.metadata.get("limits")
        if is_dataclass(value) and not isinstance(value, type):
            check_settings(value, f"{name}.")
        elif isinstance(value, dict) and value and all(map(is_dataclass, value.values())):
            for key, section in value.items():
                check_settings(section, f"{name}.{key}.")
        elif (bounds is None or bounds.one_of is None) and not fits(value, hint := hints.get(declared.name, Any)):
            raise ValueError(f"{name} must be {type_phrase(hint)}, got {value!r}")
        elif bounds is not None and value is not None and not bounds.allow(value):
            raise ValueError(f"{name} must be {bounds}, got {value!r}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type. Types that settings do not have (see `type_phrase`) are not checked."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if origin in (list, tuple, Sequence):
        return isinstance(value, (list, tuple)) and all(fits(item, arguments[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(item, arguments[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def type_phrase(hint: Any) -> str:
    """How a message names an annotated type: 'an integer', 'a number or None'."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return one_of_phrase([type_phrase(each) for each in arguments])
    if origin is Literal:
        return one_of_phrase(arguments)
    if origin in (list, tuple, Sequence):
        return f"a list, each item {type_phrase(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a mapping of names, each value {type_phrase(arguments[1])}"
    return _WORDS.get(hint) or f"a {getattr(hint, '__qualname__', hint)}"


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", NoneType: "None"}


@functools.cache
def _hints(settings: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields; none if an annotation names what cannot be found at run time."""
    try:
        return get_type_hints(settings)
    except (NameError, TypeError, AttributeError):
        return {}


def whole_number(what: str, value: SupportsIndex, at_least: int | None = None) -> int:
    """An integer of Python or NumPy as an `int`, which JSON can hold.

    Raises:
        ValueError: it is no integer (`True` and 2.0 are none), or below `at_least`.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise ValueError(f"{what} must be an integer, got {value!r}")
    number = operator.index(value)
    if at_least is not None and number < at_least:
        raise ValueError(f"{what} must be at least {at_least}, got {number}")
    return number


def one_of_phrase(choices: Sequence[object]) -> str:
    """'a', 'a or b', 'a, b or c': how a message lists what may be chosen."""
    words = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def closest(name: str, known: Iterable[str]) -> str:
    """'did you mean X? ' if one of the known names is like `name`, else ''."""
    as_written = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), list(as_written), 1)
    return f"did you mean {as_written[close[0]]}? " if close else ""


T = TypeVar("T")


def choose(
    kind: str, registry: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, Any], given: Collection[str]
) -> Callable[..., T]:
    """The entry `name` of `registry`, once it is sure that it takes `options`.

    Args:
        kind: what the registry holds, for the messages.
        options: the user's keyword arguments for the entry.
        given: the entry's other parameters, which the caller passes.
    Raises:
        ValueError: an unknown name, an unknown option or a required one that is missing.
    """
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(registry)}")
    parameters = inspect.signature(registry[name]).parameters
    known = [key for key in parameters if key not in given]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"the {kind} {name} has no option {', '.join(unknown)}; known: {', '.join(known) or 'none'}")
    required = {key for key in known if parameters[key].default is inspect.Parameter.empty}
    if missing := sorted(required - set(options)):
        raise ValueError(f"the {kind} {name} needs the option {', '.join(missing)}")
    return registry[name]
