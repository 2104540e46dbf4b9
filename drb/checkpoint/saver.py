"""What a training loop calls so that its run is saved, and what it calls where none is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from drb.checkpoint.finding import StateParts


class Saver(Protocol):
    """What a training loop calls.

    Attributes:
        next_step: the step before which `visit` need not be called.
        seconds: how long training has waited for checkpoints.
    """

    next_step: float
    seconds: float

    def begin_task(self, step: int) -> None: ...

    def visit(self, step: int, state: Callable[[], StateParts]) -> None: ...

    def visit_boundary(self, step: int, state: Callable[[], StateParts], *, evaluated: bool) -> None: ...

    def visit_end(self, step: int, state: Callable[[], StateParts]) -> None: ...


class NoCheckpoints(Saver):
    """The saver of runs that are not saved."""

    next_step = math.inf
    seconds = 0.0

    def begin_task(self, step: int) -> None:
        pass

    def visit(self, step: int, state: Callable[[], StateParts]) -> None:
        pass

    def visit_boundary(self, step: int, state: Callable[[], StateParts], *, evaluated: bool) -> None:
        pass

    def visit_end(self, step: int, state: Callable[[], StateParts]) -> None:
        pass
