"""Schedules of the learning rate, one per file.

To add one, derive a class from `Schedule`; `drb.registry` says how it is found.
"""

from __future__ import annotations

from drb.registry import Registry
from drb.training.schedules.constant import Constant
from drb.training.schedules.cosine import Cosine
from drb.training.schedules.schedule import Schedule
from drb.training.schedules.step import Step

SCHEDULES: Registry[Schedule] = Registry("schedule", Schedule, "drb.training.schedules", "drb.schedules")

__all__ = ["SCHEDULES", "Constant", "Cosine", "Schedule", "Step"]
