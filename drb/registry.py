"""Choosing an alternative by name, with errors that list what there is to choose from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

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
