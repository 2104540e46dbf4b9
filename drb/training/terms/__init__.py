"""What can be added to a strategy, one term per file."""

from drb.registry import Registry
from drb.training.terms.ema import ExponentialMovingAverage
from drb.training.terms.ewc import ElasticWeightConsolidation
from drb.training.terms.term import Term

TERMS: Registry[Term] = Registry("term", Term, "drb.training.terms", "drb.terms")

__all__ = ["TERMS", "ElasticWeightConsolidation", "ExponentialMovingAverage", "Term"]
