"""Checkpoints: what a run needs to go on, bit for bit, after it was stopped or killed.

`tree` and `format` know files, `folder` a run's checkpoints, `finding` what it goes on from, `room` where ranks meet,
`agreement` when all of them save or stop, `randomness` the global generators; `Checkpointer` is what a trainer talks
to. No file holds a pickle.
"""

from drb.checkpoint.agreement import StopSignals
from drb.checkpoint.checkpointer import MARKER, Checkpointer, Interrupted, NoCheckpoints, Saver
from drb.checkpoint.finding import Saved, State
from drb.checkpoint.format import CheckpointError
from drb.checkpoint.randomness import random_state, restore_random_state
from drb.checkpoint.settings import CheckpointSettings, check_signals

__all__ = [
    "MARKER",
    "CheckpointError",
    "CheckpointSettings",
    "Checkpointer",
    "Interrupted",
    "NoCheckpoints",
    "Saved",
    "Saver",
    "State",
    "StopSignals",
    "check_signals",
    "random_state",
    "restore_random_state",
]
