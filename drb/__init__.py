"""drb: distributed rehearsal buffers."""

from drb.rehearsal import Rehearsal

__all__ = ["Rehearsal"]
