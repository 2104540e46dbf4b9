"""What is learnt: interchangeable meanings of a network's outputs, one per file."""

from drb.registry import Registry
from drb.training.objectives.classification import Classification
from drb.training.objectives.objective import Metric, Objective, Sums

OBJECTIVES: Registry[Objective] = Registry("objective", Objective, "drb.training.objectives", "drb.objectives")

__all__ = ["OBJECTIVES", "Classification", "Metric", "Objective", "Sums"]
