"""What a network takes and gives: a tensor, or a tuple, list or dictionary of tensors, each with a row per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def map_tensors(fn: Callable[[Tensor], Any], value: Any) -> Any:
    """The same structure, with `fn` of each tensor."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, dict):
        return {name: map_tensors(fn, item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(fn, item) for item in value)
    raise ValueError(f"a network takes and gives tensors, or tuples, lists or dictionaries of them, not {type(value)}")


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of a structure, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return found


def rows_of(value: Any, rows: slice | Tensor) -> Any:
    """These rows of every tensor of a structure."""
    return map_tensors(lambda tensor: tensor[rows], value)


def count_rows(value: Any) -> int:
    return len(tensors_in(value)[0])


def zero_of(value: Any) -> Tensor:
    """Zero, with a gradient of zero for whatever the tensors were computed from."""
    first, *others = [tensor.sum() * 0.0 for tensor in tensors_in(value)]
    return sum(others, first)


def zeros_of_shapes(shapes: Any, rows: int, device: torch.device) -> Any:
    """float32 zeros in the structure of `map_tensors(lambda tensor: list(tensor.shape[1:]), …)`, `rows` rows each."""
    if isinstance(shapes, dict):
        return {name: zeros_of_shapes(shape, rows, device) for name, shape in shapes.items()}
    if all(isinstance(size, int) for size in shapes):
        return torch.zeros(rows, *shapes, device=device)
    return type(shapes)(zeros_of_shapes(shape, rows, device) for shape in shapes)
