"""Training anew, at every task, on all data seen so far: the upper bound, and what it costs."""

from __future__ import annotations

from typing import ClassVar

from drb.training.strategies.finetune import Finetune


class FromScratch(Finetune):
    """Cross-entropy on cumulative data, from fresh weights at each task."""

    cumulative: ClassVar[bool] = True
    fresh_weights: ClassVar[bool] = True
