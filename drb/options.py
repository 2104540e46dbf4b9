"""Limits of settings, written where a setting is declared and checked in one place.

A settings dataclass (of the trainer, the optimizer, a program's configuration) declares `lr: float = setting(0.1,
above=0)`. `check_settings` walks a dataclass and its nested dataclasses and raises one `ValueError` naming the first
setting out of its limits, its value and what is allowed. `None` is always within the limits: whether a field may be
None is its type's business.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar


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
        numbers = value if isinstance(value, (list, tuple)) else [value]
        return all(self._allow_number(number) for number in numbers)

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
    """A dataclass field with a default and the given `limits`."""
    return field(default=default, metadata=limits(**bounds))


def check_settings(settings: Any, prefix: str = "") -> None:
    """Check every limit of a settings dataclass and of the dataclasses inside it.

    Raises:
        ValueError: one line with the setting's full name, its value and what is allowed.
    """
    for declared in fields(settings):
        value = getattr(settings, declared.name)
        name = f"{prefix}{declared.name}"
        if is_dataclass(value):
            check_settings(value, f"{name}.")
        elif not _allowed(declared, value):
            raise ValueError(f"{name} must be {declared.metadata['limits']}, got {value!r}")


def one_of_phrase(choices: Sequence[object]) -> str:
    """'a', 'a or b', 'a, b or c': how a message lists what may be chosen."""
    words = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _allowed(declared: Field[Any], value: Any) -> bool:
    return value is None or "limits" not in declared.metadata or declared.metadata["limits"].allow(value)


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
