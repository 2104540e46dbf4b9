"""Variants: interchangeable ways of doing one thing, those of drb and those of its users.

Admission policies, models, strategies and so on are *kinds*; each kind has several variants and one `Registry` that
finds them. A variant is one class in one file, derived from its kind's base class. It states its name, its options and
what it needs, and every other module asks it instead of comparing names:

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
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeGuard, TypeVar

from typing_extensions import dataclass_transform

from drb.options import check_settings, closest, one_of_phrase, required

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


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
        cls._made = vars(dataclass(kw_only=True, eq=False)(cls))["__dataclass_fields__"]
        cls._options = MappingProxyType({option.name: option for option in fields(cls) if option.init})  # type: ignore[arg-type]
        for name in cls._options:
            if any(hasattr(base, name) and name not in getattr(base, "_options", {}) for base in cls.__bases__):
                raise TypeError(
                    f"{cls.__qualname__}.{name} must not be annotated: annotated fields are options, and {name} is "
                    "something else"
                )

    def __post_init__(self) -> None:
        check_settings(self, f"{short_name(self)}.")


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
    return _path(kind)


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


class Registry(Generic[V]):
    """The variants of one kind.

    A variant is found, and imported, by any of these names:

        reservoir                `name` of a class in a file of the package `package`
        newest_first             an entry point of an installed distribution, in the group `entry_points`
        mypkg.mod.MyAdmission    the dotted path of a class

    Args:
        kind: what a variant is, for messages, such as "admission policy".
        base: the class from which every variant derives.
        package: the package of drb whose files hold drb's own variants, or several.
        entry_points: the group of entry points by which other distributions offer theirs, such as "drb.admissions".
        besides: names that a user may give where a variant is chosen, and that mean something else.
    """

    def __init__(
        self,
        kind: str,
        base: type[Any],
        package: str | Sequence[str],
        entry_points: str,
        besides: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.base: type[V] = base
        self._packages = [package] if isinstance(package, str) else list(package)
        self._besides = besides
        self.base_path = f"{self._packages[0]}.{base.__name__}"
        self.entry_points = entry_points
        self._named: dict[str, type[V]] = {}  # outside drb, by `name_of`

    @cached_property
    def own(self) -> dict[str, type[V]]:
        """The variants of drb itself by name, in alphabetical order. Imports their files."""
        found: dict[str, type[V]] = {}
        for name in _files_of(self._packages):
            module = importlib.import_module(name)
            for value in vars(module).values():
                if self._is_variant(value) and value.__module__ == module.__name__ and vars(value).get("name"):
                    assert value.name not in found, f"two {self.kind} variants are called {value.name}"
                    found[value.name] = value
        return dict(sorted(found.items()))

    def installed(self) -> dict[str, EntryPoint]:
        """What installed distributions offer, by name; nothing is imported.

        Raises:
            ValueError: two of them, or one of them and drb, use the same name.
        """
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.entry_points):
            other = "drb itself" if point.name in self.own else found[point.name].value if point.name in found else ""
            if other and other != point.value:
                raise ValueError(
                    f"the entry point {point.name} = {point.value} in the group {self.entry_points} has the name of a "
                    f"{self.kind} of {other}; rename it or uninstall its distribution"
                )
            found[point.name] = point
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """Every name that can be chosen: drb's own, then the installed ones."""
        return [*self.own, *self.installed()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> type[V]:
        return self.find(name)

    def find(self, name: str) -> type[V]:
        """The class of a variant.

        Raises:
            ValueError: no such name, or what it names cannot be imported or is no variant of this kind.
        """
        if name in self.own:
            return self.own[name]
        if point := self.installed().get(name):
            module, _, attribute = point.value.partition(":")
            return self._import(f"{name} ({point.value})", module.strip(), attribute.partition("[")[0].strip())
        if not _DOTTED.fullmatch(name):
            known = [*self._besides, *self.names()]
            raise ValueError(
                f"unknown {self.kind} {name!r}; {closest(name, known)}choose {one_of_phrase(known)}, or give the "
                f"dotted path of a class derived from {self.base_path}"
            )
        module, _, attribute = name.rpartition(".")
        return self._import(name, module, attribute)

    def recall(self, name: str) -> type[V]:
        """The class that a saved file names: one of drb's own, or one that was named in this process before.

        A file is not trusted to say what is imported.

        Raises:
            ValueError: any other class.
        """
        if name in self.own:
            return self.own[name]
        if name in self._named:
            return self._named[name]
        raise ValueError(
            f"this was saved with the {self.kind} {name}, which is not part of drb; name it again to go on: a saved "
            "file never says what code is run"
        )

    def build(self, given: str | type[V] | V, options: Mapping[str, Any] = MappingProxyType({})) -> V:
        """The variant that a name, a class or an object stands for.

        Args:
            given: a name as for `find`, a class derived from the kind's base class, or an object of such a class,
                which is returned as it is.
            options: values for the options of the class; none for an object.
        Raises:
            ValueError: as `find`; an unknown option, a missing one, or one outside its limits.
        """
        if isinstance(given, self.base):
            if options:
                raise ValueError(
                    f"the {self.kind} {name_of(given)} is given as an object and has its options already; set "
                    f"{', '.join(sorted(options))} there"
                )
            self._require_variant(name_of(given), type(given))
            return given
        if not isinstance(given, (str, type)):
            raise ValueError(
                f"the {self.kind} must be a name, or a class derived from {self.base_path} or an object of one; got "
                f"{given!r}"
            )
        found = self.find(given) if isinstance(given, str) else self._require_variant(_path(given), given)
        self.check_options(found, options)
        return found(**options)

    def check_options(self, variant: type[V], options: Mapping[str, Any]) -> None:
        """Check that these are options of the variant, and all that it needs.

        Raises:
            ValueError: an unknown option, or a missing one.
        """
        known = options_of(variant)
        for name in options:
            if name not in known:
                raise ValueError(
                    f"the {self.label(variant)} has no option {name}; {closest(name, known)}it has "
                    f"{', '.join(known) or 'none'}"
                )
        needed = [name for name, option in known.items() if _is_required(option) and name not in options]
        if needed:
            raise ValueError(f"the {self.label(variant)} needs the option {', '.join(needed)}")

    def label(self, variant: V | type[V]) -> str:
        """How messages call a variant, such as "admission policy fifo"."""
        return f"{self.kind} {name_of(variant)}"

    def _import(self, name: str, module: str, attribute: str) -> type[V]:
        try:
            content = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"the {self.kind} {name} cannot be imported: {error}; install its package, or put its folder on "
                "PYTHONPATH"
            ) from error
        except Exception as error:
            raise ValueError(
                f"the {self.kind} {name} cannot be imported: {module} raises {type(error).__name__}: {error}"
            ) from error
        if not hasattr(content, attribute):
            classes = [key for key, value in vars(content).items() if self._is_variant(value)]
            raise ValueError(
                f"the {self.kind} {name} cannot be imported: {module} has no {attribute}; "
                f"{closest(attribute, classes)}expected a class derived from {self.base_path}"
            )
        found = getattr(content, attribute)
        return self._require_variant(name, found)

    def _require_variant(self, name: str, found: Any) -> type[V]:
        """`found`, if it is a class of this kind of which objects can be made; else ValueError."""
        expected = f"expected a class derived from {self.base_path}"
        if not isinstance(found, type):
            raise ValueError(f"{name} is no {self.kind} but a {type(found).__name__}; {expected}")
        if not self._is_variant(found):
            raise ValueError(f"{name} is no {self.kind}; {expected}")
        if lacking := sorted(found.__abstractmethods__):
            raise ValueError(f"the {self.kind} {name} is incomplete: it does not define {', '.join(lacking)}")
        if vars(found)["__dataclass_fields__"] is not found._made:
            raise ValueError(f"{name} is decorated with @dataclass, which a {self.kind} is already; remove that line")
        self._named[_path(found)] = found
        return found

    def _is_variant(self, value: Any) -> TypeGuard[type[V]]:
        return isinstance(value, type) and issubclass(value, self.base) and value is not self.base


def _files_of(packages: Sequence[str]) -> Iterator[str]:
    for package in packages:
        folder = importlib.import_module(package).__path__
        yield from (file.name for file in pkgutil.iter_modules(folder, f"{package}."))


def _is_required(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
