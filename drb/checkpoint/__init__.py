"""Checkpoints: what a run needs to go on, bit for bit, after it was stopped or killed.

`Checkpointer` is what a trainer talks to. `writing` has the order of a save, with `memory` for what is copied,
`background` for the thread and `room` for where ranks meet; `agreement` says when all of them save or stop. `format`,
`shards`, `files`, `tree` and `encryption` know what is on the disk, `folder` a run's checkpoints, `finding` what it
goes on from, `lock` keeps other processes out, `ranks` the ranks' states for others to read or change, `randomness`
the global generators. No file holds a pickle.
"""

from drb.checkpoint.agreement import StopSignals
from drb.checkpoint.checkpointer import MARKER, Checkpointer, Interrupted, NoCheckpoints, Saver
from drb.checkpoint.encryption import Key, read_key
from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.finding import Saved, State
from drb.checkpoint.folder import CheckpointFolder
from drb.checkpoint.lock import RunLock
from drb.checkpoint.ranks import read_rank_states, rewrite_checkpoint
from drb.checkpoint.settings import CheckpointSettings, check_signals

__all__ = [
    "MARKER",
    "CheckpointError",
    "CheckpointFolder",
    "CheckpointSettings",
    "Checkpointer",
    "Interrupted",
    "Key",
    "NoCheckpoints",
    "RunLock",
    "Saved",
    "Saver",
    "State",
    "StopSignals",
    "check_signals",
    "read_key",
    "read_rank_states",
    "rewrite_checkpoint",
]
