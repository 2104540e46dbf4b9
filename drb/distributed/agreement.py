"""Checks that all ranks were started alike. A run whose ranks disagree would hang or learn something wrong.

Settings are compared through the run's store rather than by collectives, which would fail if ranks differ in the device
that their collectives run on. One all_reduce of one integer tells every rank the outcome.

With several ranks all functions need the default process group, and every rank calls them in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from drb.distributed.heartbeat import default_store
from drb.distributed.world import World

_KEY = "drb/settings"
_SHOWN = 4  # differences that are spelt out
_UNSET = "unset"


def check_same_settings(settings: Mapping[str, Any], world: World) -> None:
    """Compare this rank's settings with rank 0's. Collective.

    Args:
        settings: nested mappings of JSON values.
    Raises:
        ValueError: on every rank, naming the lowest rank that differs, the settings and both ranks' values.
    """
    if world.world_size == 1:
        return
    store = default_store()
    own = _flatten(settings)
    if world.is_main:
        store.set(_KEY, json.dumps(own))
    main: dict[str, str] = json.loads(store.get(_KEY))
    different = [key for key in {**main, **own} if own.get(key) != main.get(key)]
    raise_on_all_ranks(_KEY, _sentence(world.rank, different, own, main) if different else None, world)


def raise_on_all_ranks(name: str, error: str | None, world: World, group: dist.ProcessGroup | None = None) -> None:
    """If some ranks have an error, raise that of the lowest on all of them. Collective.

    Args:
        name: the name of what is checked, used once per run.
        error: this rank's error, None if it has none.
        group: a CPU group of all ranks; the default group if None.
    Raises:
        ValueError: on every rank, with the same message.
    """
    if world.world_size == 1:
        if error is not None:
            raise ValueError(error)
        return
    culprit = torch.tensor(world.rank if error is not None else world.world_size)
    dist.all_reduce(culprit, op=dist.ReduceOp.MIN, group=group)
    if culprit == world.world_size:
        return
    store = default_store()
    if culprit == world.rank:
        store.set(f"{name}/error", error)
    raise ValueError(store.get(f"{name}/error").decode())


def gather_json(
    value: Any,
    group: dist.ProcessGroup | None = None,
    *,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[dict[str, Any]], Any] | None = None,
) -> list[Any]:
    """Every rank's value, by rank. Collective. Tuples become lists.

    Args:
        value: what JSON can represent.
        group: a CPU group of all ranks; the default group if None.
        encode, decode: as `default` and `object_hook` of the json module.
    """
    own = torch.frombuffer(bytearray(json.dumps(value, default=encode).encode()), dtype=torch.uint8)
    world_size = dist.get_world_size(group)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size)]
    dist.all_gather(sizes, torch.tensor([len(own)]), group=group)
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(own)] = own
    texts = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(texts, padded, group=group)
    return [
        json.loads(text[: int(size)].numpy().tobytes(), object_hook=decode)
        for text, size in zip(texts, sizes, strict=True)
    ]


def value_of_main(name: str, value: str, world: World) -> str:
    """Rank 0's value of something that each rank has made up, such as the run's name. Collective."""
    if world.world_size == 1:
        return value
    store = default_store()
    if world.is_main:
        store.set(f"drb/{name}", value)
    return str(store.get(f"drb/{name}").decode())


def _sentence(rank: int, different: list[str], own: Mapping[str, str], main: Mapping[str, str]) -> str:
    shown = ", ".join(f"{key}={own.get(key, _UNSET)} (rank 0: {main.get(key, _UNSET)})" for key in different[:_SHOWN])
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return f"rank {rank} was started with {shown}{more}; start all ranks with the same arguments and the same drb"


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The settings as a flat dictionary: dotted key -> value as JSON."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat
