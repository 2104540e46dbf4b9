"""What can be added to a strategy, one term per file."""

from drb.registry import Registry
from drb.training.terms.balanced_softmax import BalancedSoftmax
from drb.training.terms.cluster_storage import ClusterStorage
from drb.training.terms.density_storage import DensityStorage
from drb.training.terms.ema import ExponentialMovingAverage
from drb.training.terms.ewc import ElasticWeightConsolidation
from drb.training.terms.final_review import FinalReview
from drb.training.terms.logit_refresh import LogitRefresh
from drb.training.terms.mas import MemoryAwareSynapses
from drb.training.terms.mean_teacher import MeanTeacher
from drb.training.terms.nearest_mean import NearestMean
from drb.training.terms.online_ewc import OnlineElasticWeightConsolidation
from drb.training.terms.rwalk import RiemannianWalk
from drb.training.terms.scp import SlicedCramerPreservation
from drb.training.terms.si import SynapticIntelligence
from drb.training.terms.task_end_storage import TaskEndStorage
from drb.training.terms.term import Term

TERMS: Registry[Term] = Registry("term", Term, "drb.training.terms", "drb.terms")

__all__ = [
    "TERMS",
    "BalancedSoftmax",
    "ClusterStorage",
    "DensityStorage",
    "ElasticWeightConsolidation",
    "ExponentialMovingAverage",
    "FinalReview",
    "LogitRefresh",
    "MeanTeacher",
    "MemoryAwareSynapses",
    "NearestMean",
    "OnlineElasticWeightConsolidation",
    "RiemannianWalk",
    "SlicedCramerPreservation",
    "SynapticIntelligence",
    "TaskEndStorage",
    "Term",
]
