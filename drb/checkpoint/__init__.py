"""Checkpoints: what a run needs to go on, bit for bit, after it was stopped or killed.

saver          what a trainer calls; checkpointer: what then happens
votes          when all ranks save or stop; signals: what tells them to
writing        the order of a save, on a thread of its own; coordinator: how ranks coordinate it
memory         copies of what training will change; copier: what they ask of a GPU
format         what is on the disk, with shards, files, tree and encryption; no file holds a pickle
directory      the checkpoints of a run; lock keeps other processes out
finding        the checkpoint that a run resumes from
ranks          the ranks' saved states, for others to read or change
"""

from drb.checkpoint.checkpointer import MARKER, Checkpointer, Interrupted
from drb.checkpoint.directory import CheckpointDirectory
from drb.checkpoint.encryption import Key, read_key
from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.finding import Saved, StateParts
from drb.checkpoint.lock import RunLock
from drb.checkpoint.ranks import read_rank_states, rewrite_checkpoint
from drb.checkpoint.saver import NoCheckpoints, Saver
from drb.checkpoint.settings import CheckpointSettings, check_signals
from drb.checkpoint.signals import StopSignals

__all__ = [
    "MARKER",
    "CheckpointDirectory",
    "CheckpointError",
    "CheckpointSettings",
    "Checkpointer",
    "Interrupted",
    "Key",
    "NoCheckpoints",
    "RunLock",
    "Saved",
    "Saver",
    "StateParts",
    "StopSignals",
    "check_signals",
    "read_key",
    "read_rank_states",
    "rewrite_checkpoint",
]
