"""Vectors in the space of a network's parameters: gradients, weights, importances, anchors, averages.

A `ParameterVector` is one tensor for each parameter, by name and in the network's own order, so that it means the same
on every rank and after a resume. It is never a view of DDP's buckets, whose order changes after the first backward
pass. Arithmetic takes numbers, tensors of one element and other vectors. Where two vectors have different names, as
when some parameters are frozen, a new result has the names that both have. Adding in place takes a missing entry as 0;
other operations in place need all names of the left-hand side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import Self

Number: TypeAlias = "float | Tensor"


class ParameterVector:
    """One tensor for each of a network's parameters.

    tensors: by the parameters' names. Operations in place write to these tensors.
    grows_with: what a new entry is when the head grows: 0 ("zeros") or the new weight ("weights").
    """

    def __init__(self, tensors: Mapping[str, Tensor], grows_with: str = "zeros") -> None:
        assert grows_with in ("zeros", "weights")
        self.tensors = dict(tensors)
        self.grows_with = grows_with

    @classmethod
    def weights_of(cls, network: nn.Module) -> ParameterVector:
        """The network's own weights, not copied."""
        return cls({name: p.detach() for name, p in network.named_parameters()}, "weights")

    @classmethod
    def gradient_of(cls, network: nn.Module) -> ParameterVector:
        """The gradients that the parameters hold now, not copied; parameters without one are left out."""
        return cls({name: p.grad for name, p in network.named_parameters() if p.grad is not None})

    # -- new vectors

    def clone(self) -> ParameterVector:
        return self._new([value.clone() for value in self._values], self.grows_with)

    def zeros_like(self) -> ParameterVector:
        return self._new([torch.zeros_like(value) for value in self._values])

    def map(self, fn: Callable[[Tensor], Tensor]) -> ParameterVector:
        """The vector of `fn` of each tensor, such as `torch.square`."""
        return self._new([fn(value) for value in self._values])

    def __add__(self, other: ParameterVector | Number) -> ParameterVector:
        return self._combined(torch._foreach_add, other)

    def __sub__(self, other: ParameterVector | Number) -> ParameterVector:
        return self._combined(torch._foreach_sub, other)

    def __mul__(self, other: ParameterVector | Number) -> ParameterVector:
        return self._combined(torch._foreach_mul, other)

    def __truediv__(self, other: ParameterVector | Number) -> ParameterVector:
        return self._combined(torch._foreach_div, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> ParameterVector:
        return self._new(torch._foreach_neg(self._values))

    def __matmul__(self, other: ParameterVector) -> Tensor:
        """The inner product over the parameters of both, a tensor of one element."""
        pairs = [(self.tensors[name], other.tensors[name]) for name in self.tensors if name in other.tensors]
        return torch.stack([torch.sum(mine * theirs) for mine, theirs in pairs]).sum()

    def copied_to(self, memory: ParameterVector | None) -> ParameterVector:
        """A copy; in this memory, if its names and shapes are the same."""
        if memory is None or memory._shapes() != self._shapes():
            return self.clone()
        return memory.copy_(self)

    # -- in place

    def add_(self, other: ParameterVector | Number) -> Self:
        torch._foreach_add_(*self._added(other))
        return self

    def sub_(self, other: ParameterVector | Number) -> Self:
        torch._foreach_sub_(*self._added(other))
        return self

    def mul_(self, other: ParameterVector | Number) -> Self:
        torch._foreach_mul_(self._values, self._matching(other))
        return self

    def copy_(self, other: ParameterVector) -> Self:
        torch._foreach_copy_(self._values, self._matching(other))
        return self

    def lerp_(self, end: ParameterVector, weight: float) -> Self:
        """Go this part of the way to `end`."""
        torch._foreach_lerp_(self._values, self._matching(end), weight)
        return self

    __iadd__ = add_
    __isub__ = sub_
    __imul__ = mul_

    def grow(self, network: nn.Module) -> None:
        """Have an entry for each of the network's parameters, which may have more rows than before."""
        for name, parameter in network.named_parameters():
            old = self.tensors.get(name)
            if old is not None and old.shape == parameter.shape:
                continue
            weight = parameter.detach()
            new = torch.zeros_like(weight) if self.grows_with == "zeros" else weight.clone()
            if old is not None:
                new[tuple(slice(size) for size in old.shape)] = old
            self.tensors[name] = new

    @property
    def _values(self) -> list[Tensor]:
        return list(self.tensors.values())

    def _new(self, values: Iterable[Tensor], grows_with: str = "zeros") -> ParameterVector:
        return ParameterVector(dict(zip(self.tensors, values, strict=True)), grows_with)

    def _combined(self, operation: Callable[..., Any], other: ParameterVector | Number) -> ParameterVector:
        if not isinstance(other, ParameterVector):
            return self._new(operation(self._values, other))
        names = [name for name in self.tensors if name in other.tensors]
        values = operation([self.tensors[name] for name in names], [other.tensors[name] for name in names])
        return ParameterVector(dict(zip(names, values, strict=True)))

    def _shapes(self) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in self.tensors.items()}

    def _added(self, other: ParameterVector | Number) -> tuple[list[Tensor], Any]:
        """The tensors of this vector that something is added to, and what is."""
        if not isinstance(other, ParameterVector):
            return self._values, other
        names = [name for name in self.tensors if name in other.tensors]
        return [self.tensors[name] for name in names], [other.tensors[name] for name in names]

    def _matching(self, other: ParameterVector | Number) -> Any:
        if not isinstance(other, ParameterVector):
            return other
        if missing := [name for name in self.tensors if name not in other.tensors]:
            raise ValueError(f"vectors of different parameters: {missing[0]} is missing on the right-hand side")
        return [other.tensors[name] for name in self.tensors]


Gradient: TypeAlias = ParameterVector
Weights: TypeAlias = ParameterVector
ParameterState: TypeAlias = ParameterVector
