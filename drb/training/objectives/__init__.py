"""What is learnt: interchangeable meanings of a network's outputs, one per file."""

from drb.registry import Registry
from drb.training.objectives.anomaly import Anomaly
from drb.training.objectives.classification import Classification
from drb.training.objectives.forecasting import Forecasting
from drb.training.objectives.multilabel import Multilabel
from drb.training.objectives.objective import Metric, Objective, Sums
from drb.training.objectives.reconstruction import Reconstruction
from drb.training.objectives.regression import Regression

OBJECTIVES: Registry[Objective] = Registry("objective", Objective, "drb.training.objectives", "drb.objectives")

__all__ = [
    "OBJECTIVES",
    "Anomaly",
    "Classification",
    "Forecasting",
    "Metric",
    "Multilabel",
    "Objective",
    "Reconstruction",
    "Regression",
    "Sums",
]
