"""Interchangeable ways to learn a stream of tasks, one per file.

To add one, derive a class from `Strategy` and override the hooks that it needs (`drb.training.method.hooks` lists
them). What it asks for it says in `needs`, with `Needs` and `LateField` of `drb.training.method.needs`; `loss` is given
a `Batch` of `drb.training.method.batch`. `drb.registry` says how it is found.
"""

from __future__ import annotations

from drb.registry import Registry
from drb.training.strategies.er import ExperienceReplay
from drb.training.strategies.finetune import Finetune
from drb.training.strategies.from_scratch import FromScratch
from drb.training.strategies.strategy import Strategy

STRATEGIES: Registry[Strategy] = Registry("strategy", Strategy, "drb.training.strategies", "drb.strategies")

__all__ = ["STRATEGIES", "ExperienceReplay", "Finetune", "FromScratch", "Strategy"]
