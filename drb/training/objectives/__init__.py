"""What is learnt: interchangeable meanings of a network's outputs, one per file."""

from drb.training.objectives.classification import Classification
from drb.training.objectives.objective import Metric, Objective, Sums

__all__ = ["Classification", "Metric", "Objective", "Sums"]
