"""Groups and weights of proportions from outside drb are checked before they are drawn from."""

from __future__ import annotations

import numpy as np

from drb.sampling.proportions.base import Proportions, StratumWeights
from drb.types import Float64Array, Int64Array
from drb.variant import name_of


class CheckedProportions:
    """The groups of someone's own proportions; raises ValueError where they cannot be drawn from."""

    def __init__(self, proportions: Proportions) -> None:
        self._proportions = proportions

    def groups(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]:
        """See `Proportions.groups`."""
        returned, name = self._proportions.groups(counts_WS, offered_W), name_of(self._proportions)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(f"{name}.groups must return (cells, weights), got {type(returned).__qualname__}")
        cells_GC, weights_G = np.asarray(returned[0]), np.asarray(returned[1])
        if cells_GC.ndim != 2 or cells_GC.dtype != np.int64:
            raise ValueError(
                f"{name}.groups must return cells as int64 [G, C], got {cells_GC.dtype} {list(cells_GC.shape)}"
            )
        if weights_G.shape != (len(cells_GC),):
            raise ValueError(
                f"{name}.groups must return a weight for each of its {len(cells_GC)} groups, got weights of shape "
                f"{list(weights_G.shape)}"
            )
        _require_weights(weights_G, f"{name}.groups must return weights")
        stored = int(counts_WS.sum())
        if (cells_GC < 0).any() or int(cells_GC.sum()) > stored:
            raise ValueError(
                f"{name}.groups must divide the {stored} stored exemplars among its cells, got {int(cells_GC.sum())}"
            )
        return cells_GC, weights_G.astype(np.float64)

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        """See `StratumWeights.weights`."""
        assert isinstance(self._proportions, StratumWeights)
        returned = np.asarray(self._proportions.weights(strata_S, sizes_S, step))
        name = f"{name_of(self._proportions)}.weights must return"
        if returned.shape != sizes_S.shape or returned.dtype.kind not in "iuf":
            raise ValueError(
                f"{name} a number for each of {len(sizes_S)} strata, got {returned.dtype} {list(returned.shape)}"
            )
        _require_weights(returned, f"{name} numbers")
        return returned.astype(np.float64)


def _require_weights(weights_G: Float64Array, begin: str) -> None:
    if not np.isfinite(weights_G).all() or (weights_G < 0).any() or (len(weights_G) and weights_G.sum() == 0):
        raise ValueError(f"{begin} of at least 0, not all 0, got {weights_G}")
