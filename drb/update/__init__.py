"""New data arrived: train a model on it, judge it, and promote it or keep it aside, as one line of a lineage.

    drb update --state DIR --data PATH [key=value ...]
    torchrun --nproc-per-node=N -m drb.update --state DIR --data PATH
    drb.update.update("DIR", "PATH")

The first update begins a lineage; every later one goes on from its current version: network, buffer and optimizer.
"""

from drb.runs.lineage.record import Lineage, Version, read_lineage
from drb.update.command import main, update
from drb.update.job import Update

__all__ = ["Lineage", "Update", "Version", "main", "read_lineage", "update"]
