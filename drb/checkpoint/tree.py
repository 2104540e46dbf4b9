"""Nested states (dicts and lists of tensors, arrays, numbers and strings) as named tensors and JSON, and back.

In the JSON, `{"$tensor": NAME}` stands for a tensor, `{"$array": NAME}` for a numpy array and `{"$rows": NAME}` for
rows that are written separately; NAME is the path in the state. So nothing is pickled, and everything but the numbers
themselves can be read with an editor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.buffer.snapshot import LazyRows

_TENSOR, _ARRAY, _ROWS = "$tensor", "$array", "$rows"


@dataclass(frozen=True)
class Split:
    """A state taken apart.

    Attributes:
        skeleton: what JSON can represent, with the names of tensors and rows in it.
        tensors, rows: by name.
    """

    skeleton: Any
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, LazyRows] = field(default_factory=dict)


def split(state: Any) -> Split:
    """Take a state apart. The tensors share memory with the state, and maybe with one another; the rest is copied."""
    tensors: dict[str, Tensor] = {}
    rows: dict[str, LazyRows] = {}
    return Split(_split(state, "", tensors, rows), tensors, rows)


def join(parts: Split) -> Any:
    """The state that `split` took apart; tuples have become lists, numpy numbers Python's."""
    return _join(parts, parts.skeleton)


def _join(parts: Split, skeleton: Any) -> Any:
    if isinstance(skeleton, list):
        return [_join(parts, value) for value in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if skeleton.keys() == {_TENSOR}:
        return parts.tensors[skeleton[_TENSOR]]
    if skeleton.keys() == {_ARRAY}:
        return parts.tensors[skeleton[_ARRAY]].numpy()
    if skeleton.keys() == {_ROWS}:
        return parts.rows[skeleton[_ROWS]]
    return {key: _join(parts, value) for key, value in skeleton.items()}


def _split(state: Any, path: str, tensors: dict[str, Tensor], rows: dict[str, LazyRows]) -> Any:
    def below(key: Any, value: Any) -> Any:
        return _split(value, f"{path}/{key}" if path else str(key), tensors, rows)

    if isinstance(state, Mapping):
        return {str(key): below(key, value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [below(index, value) for index, value in enumerate(state)]
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, np.ndarray):
        tensors[path] = torch.from_numpy(np.require(state, requirements=["C", "W"]).reshape(state.shape))
        return {_ARRAY: path}
    if isinstance(state, Tensor):
        tensors[path] = state.detach() if state.requires_grad else state
        return {_TENSOR: path}
    if isinstance(state, LazyRows):
        rows[path] = state
        return {_ROWS: path}
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    raise TypeError(f"{path}: a {type(state).__name__} cannot be saved without pickle")
