"""drb: distributed rehearsal buffers."""

from drb.ownership import OwnerSampler, with_ids
from drb.rehearsal import Rehearsal

__all__ = ["OwnerSampler", "Rehearsal", "with_ids"]
