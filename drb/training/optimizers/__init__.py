"""Optimizers, one family per file.

To add one, derive a class from `OptimizerBuilder`; `drb.registry` says how it is found.
"""

from __future__ import annotations

from drb.registry import Registry
from drb.training.optimizers.adam import Adam, AdamW
from drb.training.optimizers.builder import OptimizerBuilder
from drb.training.optimizers.sgd import Sgd

OPTIMIZERS: Registry[OptimizerBuilder] = Registry(
    "optimizer", OptimizerBuilder, "drb.training.optimizers", "drb.optimizers"
)

__all__ = ["OPTIMIZERS", "Adam", "AdamW", "OptimizerBuilder", "Sgd"]
