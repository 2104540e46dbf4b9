"""Where the rows of a buffer lie: `heap` (this process) or `shared` (a segment that the node's ranks read)."""

from drb.storage.heap import HeapStorage
from drb.storage.shared import SharedSegment

__all__ = ["HeapStorage", "SharedSegment"]
