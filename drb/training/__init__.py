"""Training a network on a stream of tasks, on every rank of a run.

`loop` is the path of a minibatch; `learner` the network, its optimizer and DDP; `method` what a strategy or a term
sees and may do; `strategies`, `terms`, `objectives` and `models` the variants; `evaluation` what happens after each
task; `state` what a resumed run goes on from; `reporting` what is shown and logged.
"""

from drb.training.loop import Trainer
from drb.training.optim import OptimizerSettings
from drb.training.reporting.monitor import Monitor
from drb.training.schedule import ScheduleSettings
from drb.training.settings import TrainingSettings, split_evenly

__all__ = ["Monitor", "OptimizerSettings", "ScheduleSettings", "Trainer", "TrainingSettings", "split_evenly"]
