"""Variants: interchangeable ways of doing one thing, those of drb and those of its users.

Admission policies, models, strategies and so on are *kinds*. Each kind has several variants and one `Registry`
(`drb.registry`) that finds them. A variant is one class in one file, derived from its kind's base class. It states its
name, its options and what it needs, and every other module asks it instead of comparing names:

    class RandomReplacement(Admission):
        \"\"\"Overwrite random exemplars of the same class (arXiv 2406.03285).\"\"\"

        name = "random_replacement"
        needs_strata = True
        candidates: int = required(at_least=1)

Annotated fields are options. Configuration schemas, checks, error messages and the tables in the documentation are
derived from them. A variant outside drb needs no name: it is called by its dotted path or by an entry point.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from typing_extensions import dataclass_transform

from drb.options import check_settings, closest, required


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field, required))
class Variant(abc.ABC):  # noqa: B024  # each kind adds its own
    """The base class of every kind's base class.

    Subclasses become dataclasses by themselves, with keyword arguments only: annotated fields are options, ClassVars
    and plain attributes are facts about the class. Limits (`setting(0.5, above=0)`) are checked when an object is made.
    State belongs in `__post_init__` (which calls `super().__post_init__()`) or in the methods of the kind.
    """

    name: ClassVar[str] = ""
    _options: ClassVar[Mapping[str, Field[Any]]] = MappingProxyType({})
    _made: ClassVar[Mapping[str, Field[Any]]] = MappingProxyType({})  # as this class was made, to notice a decorator

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own_init = vars(cls).get("__init__")
        cls._made = vars(dataclass(kw_only=True, eq=False)(cls))["__dataclass_fields__"]
        if own_init is None:
            cls.__init__ = _checking(cls.__init__)  # type: ignore[method-assign]
        cls._options = MappingProxyType({option.name: option for option in fields(cls) if option.init})  # type: ignore[arg-type]
        for name in cls._options:
            if any(hasattr(base, name) and name not in getattr(base, "_options", {}) for base in cls.__bases__):
                raise TypeError(
                    f"{cls.__qualname__}.{name} must not be annotated: annotated fields are options, and {name} is "
                    "something else"
                )

    def __post_init__(self) -> None:
        check_settings(self, f"{short_name(self)}.")


def check_options(variant: type[Variant], options: Iterable[str], label: str) -> None:
    """Check that these are names of options of the variant, and all that it needs.

    Args:
        label: how the message begins, such as "the strategy er".
    Raises:
        ValueError: an unknown option, or a missing one.
    """
    known, given = options_of(variant), set(options)
    for name in options:
        if name not in known:
            hint = why_no_option(variant, name) or f"{closest(name, known)}it has {', '.join(known) or 'none'}"
            raise ValueError(f"{label} has no option {name}; {hint}")
    needed = [name for name, option in known.items() if _is_required(option) and name not in given]
    if needed:
        raise ValueError(f"{label} needs the option {', '.join(needed)}")


def why_no_option(variant: type[Variant], name: str) -> str:
    """What to write if a class has an attribute that was meant to be an option; empty if it has none."""
    value = getattr(variant, name, None)
    if name.startswith("_") or not isinstance(value, (bool, int, float, str, list, tuple, dict)):
        return ""
    return (
        f"{variant.__name__}.{name} is a plain attribute: annotate it ({name}: {type(value).__name__} = {value!r}) to "
        "make it an option"
    )


def options_of(variant: Variant | type[Variant]) -> Mapping[str, Field[Any]]:
    """The options of a variant: dataclass fields by name, in the order of their declaration."""
    return variant._options


def name_of(variant: Variant | type[Variant]) -> str:
    """The name of a variant in saved states and messages: that of one of drb's own, else the dotted path of its class.

    It does not depend on how the variant was chosen (by entry point, by dotted path or as an object).
    """
    kind = variant if isinstance(variant, type) else type(variant)
    if kind.__module__.partition(".")[0] == "drb" and "name" in vars(kind):
        return kind.name
    return path_of(kind)


def short_name(variant: Variant | type[Variant]) -> str:
    """The name without the path: how messages about options begin."""
    return name_of(variant).rpartition(".")[2]


def identity(variant: Variant) -> dict[str, Any]:
    """{"name": its name, option: value, …}: what all ranks must agree on and what a saved state states.

    Raises:
        ValueError: an option holds something other than numbers, strings, None, and lists or mappings of these.
    """
    values = {name: getattr(variant, name) for name in options_of(variant)}
    for option, value in values.items():
        if not _is_plain(value):
            raise ValueError(
                f"the option {option} of {name_of(variant)} must be a number, a string, None, or a list or mapping of "
                f"these, so that it can be compared and saved; got {type(value).__qualname__}"
            )
    return {"name": name_of(variant), **values}


V = TypeVar("V", bound=Variant)


def fresh(variant: V) -> V:
    """Another object of the same class with the same options, and with no state yet."""
    return type(variant)(**{name: getattr(variant, name) for name in options_of(variant)})


def _is_required(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def _checking(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor that a dataclass was given, with unknown and missing options told as in a configuration."""

    @functools.wraps(init)
    def checked(self: Variant, *values: Any, **options: Any) -> None:
        if values:
            raise ValueError(
                f"the options of {type(self).__name__} are given by name, as in "
                f"{type(self).__name__}({', '.join(f'{name}=…' for name in options_of(self))}); got "
                f"{', '.join(map(repr, values))}"
            )
        check_options(type(self), options, type(self).__name__)
        init(self, **options)

    return checked


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def path_of(kind: type) -> str:
    """Return the dotted path of a class: its module and its name in it."""
    return f"{kind.__module__}.{kind.__qualname__}"
