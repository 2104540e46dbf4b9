"""Interchangeable ways to learn a stream of tasks, one per file."""

from __future__ import annotations

from drb.registry import Registry
from drb.training.strategies.er import ExperienceReplay
from drb.training.strategies.finetune import Finetune
from drb.training.strategies.from_scratch import FromScratch
from drb.training.strategies.strategy import Strategy

STRATEGIES: Registry[Strategy] = Registry("strategy", Strategy, "drb.training.strategies", "drb.strategies")

__all__ = ["STRATEGIES", "ExperienceReplay", "Finetune", "FromScratch", "Strategy"]
