"""The registry of a kind: finds its variants by name, entry point, dotted path, class or object. See `drb.variant`."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Generic, TypeGuard

from drb.options import closest, one_of_phrase
from drb.variant import V, check_options, name_of, path_of

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class UnnamedVariantError(ValueError):
    """A saved file names a class outside drb that nobody has named in this process. name: its dotted path."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"this was saved with the {kind} {name}, which is not part of drb; name it again to go on: a saved file "
            "never says what code is run"
        )
        self.name = name


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
            raise ValueError(f"unknown {self.kind} {name!r}; {self.advice(name)}")
        module, _, attribute = name.rpartition(".")
        return self._import(name, module, attribute)

    def advice(self, name: str, others: Sequence[str] = ()) -> str:
        """What to write instead of a name that is none, for messages. others: further names that can be chosen."""
        known = list(dict.fromkeys([*self._besides, *self.names(), *others]))
        dotted = name.replace(":", ".")
        meant = f"did you mean {dotted}? " if dotted != name and _DOTTED.fullmatch(dotted) else closest(name, known)
        return f"{meant}choose {one_of_phrase(known)}, or give the dotted path of a class derived from {self.base_path}"

    def recall(self, name: str) -> type[V]:
        """The class that a saved file names: one of drb's own, or one that was named in this process before.

        A file is not trusted to say what is imported.

        Raises:
            UnnamedVariantError: any other class.
        """
        if name in self.own:
            return self.own[name]
        if name in self._named:
            return self._named[name]
        raise UnnamedVariantError(self.kind, name)

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
        found = self.find(given) if isinstance(given, str) else self._require_variant(path_of(given), given)
        self.check_options(found, options)
        return found(**options)

    def check_options(self, variant: type[V], options: Mapping[str, Any]) -> None:
        """Check that these are options of the variant, and all that it needs.

        Raises:
            ValueError: an unknown option, or a missing one.
        """
        check_options(variant, options, f"the {self.label(variant)}")

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
        self._named[path_of(found)] = found
        return found

    def _is_variant(self, value: Any) -> TypeGuard[type[V]]:
        return isinstance(value, type) and issubclass(value, self.base) and value is not self.base


def _files_of(packages: Sequence[str]) -> Iterator[str]:
    for package in packages:
        folder = importlib.import_module(package).__path__
        yield from (file.name for file in pkgutil.iter_modules(folder, f"{package}."))
