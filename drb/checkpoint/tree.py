"""Nested states (dicts and lists of tensors, arrays, numbers and strings) as named tensors and JSON, and back.

In the JSON a tensor is `{"$tensor": NAME}` and a numpy array `{"$array": NAME}`; NAME is its path in the state. So
nothing is pickled, and everything but the numbers themselves can be read with an editor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TENSOR, _ARRAY = "$tensor", "$array"


def split(state: Any) -> tuple[dict[str, Tensor], Any]:
    """The state's tensors by name, on the CPU, contiguous; and the JSON.

    They share memory with the state, not with one another (as tied weights do): safetensors would refuse that.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _split(state, "", tensors)
    seen: set[int] = set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if memory in seen and memory else tensor
        seen.add(memory)
    return tensors, skeleton


def join(tensors: Mapping[str, Tensor], skeleton: Any) -> Any:
    """The state that `split` took apart; tuples have become lists, numpy numbers Python's."""
    if isinstance(skeleton, list):
        return [join(tensors, value) for value in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if skeleton.keys() == {_TENSOR}:
        return tensors[skeleton[_TENSOR]]
    if skeleton.keys() == {_ARRAY}:
        return tensors[skeleton[_ARRAY]].numpy()
    return {key: join(tensors, value) for key, value in skeleton.items()}


def _split(state: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(state, Mapping):
        return {str(key): _split(value, f"{path}/{key}" if path else str(key), tensors) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_split(value, f"{path}/{index}" if path else str(index), tensors) for index, value in enumerate(state)]
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(state).reshape(state.shape))
        return {_ARRAY: path}
    if isinstance(state, Tensor):
        tensors[path] = state.detach().cpu().contiguous()
        return {_TENSOR: path}
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    raise TypeError(f"{path}: a {type(state).__name__} cannot be saved without pickle")
