"""Training a network on a stream of tasks, on every rank of a run.

`loop` is the path of a minibatch; `learner` the network, its optimizer and DDP; `scores` the evaluation after each
task; `monitor` what is shown and logged.
"""

from drb.trainer.loop import Trainer
from drb.trainer.monitor import Monitor
from drb.trainer.optim import OptimizerSettings
from drb.trainer.schedule import ScheduleSettings
from drb.trainer.settings import TrainingSettings, split_evenly

__all__ = ["Monitor", "OptimizerSettings", "ScheduleSettings", "Trainer", "TrainingSettings", "split_evenly"]
