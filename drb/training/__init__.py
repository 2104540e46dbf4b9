"""Training a network on a stream of tasks, on every rank of a run.

`loop` is the path of a minibatch; `learner` the network, its optimizer and DDP; `method` what a strategy or a term
sees and may do; `strategies`, `terms`, `objectives`, `models`, `optimizers` and `schedules` the variants; `evaluation`
what happens after each task; `state` what a resumed run goes on from; `reporting` what is shown and logged.
"""

from drb.training.loop import Trainer
from drb.training.optimizers import OPTIMIZERS, Adam, AdamW, OptimizerBuilder, Sgd
from drb.training.reporting.monitor import Monitor
from drb.training.schedules import SCHEDULES, Constant, Cosine, Schedule, Step
from drb.training.settings import TrainingSettings, split_evenly

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Monitor",
    "OptimizerBuilder",
    "Schedule",
    "Sgd",
    "Step",
    "Trainer",
    "TrainingSettings",
    "split_evenly",
]
