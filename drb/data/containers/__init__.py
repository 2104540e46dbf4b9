"""Files that hold many samples each: shards of tar, Parquet, Arrow. One kind of file per module.

A `Container` lists the samples of one split and reads any of them; `ContainedSource` makes minibatches of them.
"""

from __future__ import annotations

from drb.data.containers.container import ContainedSource, Container, Value

__all__ = ["ContainedSource", "Container", "Value"]
