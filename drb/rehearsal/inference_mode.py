"""Memory that outlives a call must not be made in `torch.inference_mode`, outside which it could not be written."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def outside_inference_mode(call: Callable[P, T]) -> Callable[P, T]:
    """Return the function so that it leaves inference mode while it runs, if its caller is in it."""

    @wraps(call)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return call(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return call(*args, **kwargs)

    return outside
