"""Extending a minibatch: the current samples and the exemplars in one block of memory per field.

The blocks are allocated once and used in turn, so a step allocates nothing: pages of a fresh 10 MB block cost more
than copying it. What is returned is overwritten two calls later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from drb.buffer.record import SAMPLE_ID, Field, RecordSpec
from drb.rehearsal.delivery import ReuseFence
from drb.rehearsal.exemplars import StepExemplars
from drb.types import Exemplars, Int64Array, Minibatch

_Array: TypeAlias = npt.NDArray[Any]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _Views:
    """Where one shape of step reads and writes: made once, since slicing costs more than copying small rows."""

    output: Minibatch  # [B + R, …], and `rehearsed`
    own: Minibatch  # the output's first B rows
    stored: list[tuple[_Array, _Array]]  # the output's last R rows, and the exemplars, of each field without a codec
    encoded: list[tuple[Field, Tensor, Tensor]]  # a field with a codec, the exemplars as stored, the output's last R


class Extension:
    """Two blocks of max_rows + exemplars rows per field, used alternately.

    blocks: int64 [*, *, K], in which the exemplars lie; exemplars: the most of a step; sample_id: the ids' field.
    """

    def __init__(
        self, spec: RecordSpec, max_rows: int, exemplars: int, blocks: Int64Array, sample_id: str | None
    ) -> None:
        rows = max_rows + exemplars
        fields = {name: (field.shape, field.dtype) for name, field in spec.fields.items() if not field.late}
        if sample_id is not None:
            fields[sample_id] = ((), torch.int64)
        self._spec = spec
        self._most = exemplars
        self._decoded: Minibatch | None = None  # fields with a codec of exemplars that are returned by themselves
        self._outputs = [{name: _empty((rows, *s), d) for name, (s, d) in fields.items()} for _ in range(2)]
        self._exemplars = []
        for block in blocks:
            views = {name: view for name, view in spec.stored_views(block).items() if name in fields}
            if sample_id is not None:
                views[sample_id] = torch.from_numpy(block)[:, SAMPLE_ID]
            self._exemplars.append(views)
        self._views: dict[tuple[int, int, int, int, int], _Views] = {}
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._fence = ReuseFence(2) if torch.cuda.is_available() else None
        self._turn = 0

    def extend(self, minibatch: Minibatch, exemplars: StepExemplars | None) -> Minibatch:
        """The minibatch's B rows followed by the R exemplars, and `rehearsed` bool [B + R].

        `rehearsed` is shared between steps: do not write to it.
        """
        num_rows = next(iter(minibatch.values())).shape[0]
        count = 0 if exemplars is None else len(exemplars.rows)
        if exemplars is None or count == 0:
            return {**minibatch, "rehearsed": self._mask(num_rows, 0)}
        if self._fence is not None:
            self._fence.mark(self._turn)  # the last batch's readers have been queued by now
            self._fence.wait(self._turn ^ 1)
        self._turn ^= 1
        views = self._views_of(exemplars, num_rows, count)
        for name, own in views.own.items():
            own.copy_(minibatch[name])
        for tail, rows in views.stored:
            tail[...] = rows
        for field, stored, rehearsed in views.encoded:
            field.decode(stored, rehearsed)
        return dict(views.output)

    def named(self, exemplars: StepExemplars) -> Exemplars:
        """Return the exemplars by themselves, for strategies that treat them apart from the minibatch."""
        if self._decoded is None:
            fields = {name: self._spec.fields[name] for name in self._spec.encoded}
            self._decoded = {name: _empty((self._most, *f.shape), f.dtype) for name, f in fields.items()}
        known = self._spec.known(torch.from_numpy(exemplars.rows)) if self._spec.counted else {}
        return exemplars.named(self._spec.views(exemplars.rows, self._decoded), known)

    def erase(self) -> None:
        """Zero what was returned last and before; its readers must have been queued."""
        if self._fence is not None:
            self._fence.settle()
        for output in (*self._outputs, self._decoded or {}):
            for values in output.values():
                values.zero_()

    def _views_of(self, exemplars: StepExemplars, num_rows: int, count: int) -> _Views:
        first = exemplars.first
        key = (self._turn, exemplars.block, first, num_rows, count)
        if key not in self._views:
            outputs = {name: output[: num_rows + count] for name, output in self._outputs[self._turn].items()}
            stored = self._exemplars[exemplars.block]
            own = {name: output[:num_rows] for name, output in outputs.items()}
            rows = {name: (output[num_rows:], stored[name][first : first + count]) for name, output in outputs.items()}
            encoded = []
            for name in filter(rows.__contains__, self._spec.encoded):
                rehearsed, values = rows.pop(name)
                encoded.append((self._spec.fields[name], values, rehearsed))
            pairs = [(_as_array(rehearsed), _as_array(values)) for rehearsed, values in rows.values()]
            outputs["rehearsed"] = self._mask(num_rows, count)
            self._views[key] = _Views(outputs, own, pairs, encoded)
        return self._views[key]

    def _mask(self, num_rows: int, num_exemplars: int) -> Tensor:
        shape = (num_rows, num_exemplars)
        if shape not in self._masks:
            self._masks[shape] = torch.arange(num_rows + num_exemplars) >= num_rows
        return self._masks[shape]


def _as_array(values: Tensor) -> _Array:
    """The same memory for numpy, which copies a few rows in a third of the time."""
    array: _Array = (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()
    return array


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Page-locked where CUDA is present, so that copies to the GPU are asynchronous."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available())


def outside_inference_mode(call: Callable[P, T]) -> Callable[P, T]:
    """Return the function so that it leaves `torch.inference_mode` while it runs, if its caller is in it.

    Memory that outlives a call must not be made in inference mode, outside which it could not be written.
    """

    @wraps(call)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return call(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return call(*args, **kwargs)

    return outside
