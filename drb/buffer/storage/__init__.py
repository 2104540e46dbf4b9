"""Where the rows of a buffer lie: `heap` (this process), `shared` (a segment that the node's ranks read), `mapped` (a
file on the node's disk), `device`.
"""

from drb.buffer.storage.heap import HeapStorage
from drb.buffer.storage.shared import SharedSegment

__all__ = ["HeapStorage", "SharedSegment"]
