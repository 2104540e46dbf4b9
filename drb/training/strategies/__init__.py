"""Interchangeable ways to learn a stream of tasks, one per file."""

from __future__ import annotations

from drb.training.strategies.er import ExperienceReplay
from drb.training.strategies.finetune import Finetune
from drb.training.strategies.from_scratch import FromScratch
from drb.training.strategies.strategy import Strategy

STRATEGIES: dict[str, type[Strategy]] = {
    "er": ExperienceReplay,
    "finetune": Finetune,
    "from_scratch": FromScratch,
}


def build_strategy(name: str) -> Strategy:
    """The strategy of this name.

    Raises:
        ValueError: no such strategy.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]()


__all__ = ["STRATEGIES", "ExperienceReplay", "Finetune", "FromScratch", "Strategy", "build_strategy"]
