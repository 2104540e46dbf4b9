"""Training anew, at every task, on all data seen so far: the upper bound, and what it costs."""

from __future__ import annotations

from drb.training.method.needs import Needs
from drb.training.strategies.strategy import Strategy


class FromScratch(Strategy):
    """The mean loss on cumulative data, from fresh weights at each task."""

    name = "from_scratch"

    def needs(self) -> Needs:
        return Needs(cumulative=True, fresh_weights=True)
