"""Samples that are random bytes, and every place in which drb may keep such a sample."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.types import Minibatch

PATTERN_BYTES = 64


@functools.cache
def pattern(sample_id: int) -> bytes:
    """The random content of a sample."""
    return np.random.default_rng([77, sample_id]).bytes(PATTERN_BYTES)


def planted(ids: list[int]) -> Minibatch:
    """image uint8 [B, 1, 8, 8]: the pattern; label; sample_id."""
    images = np.frombuffer(b"".join(map(pattern, ids)), np.uint8).reshape(-1, 1, 8, 8).copy()
    numbers = torch.tensor(ids, dtype=torch.int64)
    return {"image": torch.from_numpy(images), "label": numbers % 5, "sample_id": numbers}


def found_in(content: bytes, ids: list[int]) -> set[int]:
    """Samples of which a quarter is in these bytes."""
    quarter = PATTERN_BYTES // 4
    starts = range(0, PATTERN_BYTES, quarter)
    return {i for i in ids if any(pattern(i)[start : start + quarter] in content for start in starts)}


def traces_in_files(folder: Path, ids: list[int]) -> dict[str, set[int]]:
    traces = {}
    for path in filter(Path.is_file, folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # in /dev/shm: another test's segment, gone meanwhile
            traces[str(path.relative_to(folder))] = found_in(path.read_bytes(), ids)
    return {name: found for name, found in traces.items() if found}


def traces_in_memory(owner: Any, ids: list[int]) -> dict[str, set[int]]:
    """By the attribute where they were found, in every array and tensor that the object holds, views of it included."""
    traces: dict[str, set[int]] = {}
    for name, content in _memory(owner, "", set()):
        if found := found_in(content, ids):
            traces.setdefault(name, set()).update(found)
    return traces


def _memory(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, bytes]]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        yield name, bytes(storage) if value.device.type == "cpu" else b""
    elif isinstance(value, np.ndarray):
        if value.base is not None and isinstance(value.base, np.ndarray):
            yield from _memory(value.base, name, seen)
        else:
            yield name, value.tobytes()
    elif isinstance(value, (bytes, bytearray)):
        yield name, bytes(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _memory(item, f"{name}[{key}]", seen)
    elif isinstance(value, (list, tuple, set, deque)):
        for item in value:
            yield from _memory(item, f"{name}[]", seen)
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield from _memory(cell.cell_contents, f"{name}()", seen)
    elif type(value).__module__.startswith("drb"):
        for attribute, item in vars(value).items() if hasattr(value, "__dict__") else ():
            yield from _memory(item, f"{name}.{attribute}", seen)
