"""mix-cd (Bai et al. 2024, arXiv 2402.08096): rehearse where training on new data does the most damage.

A rehearsed row is damaged if it is wrong now and the network was right about it before. The share of damaged rows of
each stratum is estimated from rows that were rehearsed anyway, α = (damaged + 0.5) / (shown + 5). A stratum's weight is
the number of its exemplars times α. Older rows count less: before n rows are added to the counts of K strata, these
are multiplied by 1 − min(0.5, n / (20 K)).

`Feedback.right` tells which rows are not damaged. Where nothing is known of before, every wrong row counts as damaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drb.options import setting
from drb.sampling.feedback import Feedback
from drb.sampling.proportions.base import StratumWeights
from drb.sampling.strata import StrataTable
from drb.types import Float64Array, Int64Array

_DAMAGED, _SHOWN = 0.5, 5.0  # added to the counts, so that no stratum starves


class MixCd(StratumWeights):
    """Weight each stratum by its exemplars times the share of rows that were damaged.

    memory: the counts remember about so many rows for each stratum
    """

    name = "mix_cd"
    needs_feedback = needs_correct = True
    memory: float = setting(20.0, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._table = StrataTable(shown=0.0, damaged=0.0)

    def observe(self, feedback: Feedback) -> None:
        table = self._table
        at, shown = table.places(feedback.strata), feedback.rows
        keep = 1 - min(0.5, feedback.num_rows / (self.memory * len(table)))
        table["shown"][:] *= keep
        table["damaged"][:] *= keep
        table["shown"][at] += shown
        table["damaged"][at] += shown - feedback.right

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        table = self._table
        at = table.places(strata_S)
        return sizes_S * ((table["damaged"][at] + _DAMAGED) / (table["shown"][at] + _SHOWN))

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state)
