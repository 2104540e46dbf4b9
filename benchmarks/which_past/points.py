"""What is compared: which past is rehearsed, how much of it, and what it counts.

b = 32 new rows a step and r = 4 rehearsed ones, each of which counts alike, so that the share of the loss w is 1/9.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Point:
    """proportions, with options; by: the strata, `cluster`, `label` or `bin` (tenths by the loss before).

    exemplars: r. share: w, the rehearsed rows' share of the loss; None: each row counts alike.
    before: feedback is against the network before: rows that it got wrong are not damaged, and of losses its loss is
    taken off. It takes a forward of that network on the rehearsed rows.
    """

    proportions: str = "uniform"
    by: str = "cluster"
    exemplars: int = 4
    share: float | None = None
    before: bool = False
    options: dict[str, Any] = field(default_factory=dict)


SHARES = (0.05, 0.2, 0.3, 0.5)
POINTS = {
    "uniform": Point(),
    "balanced": Point("balanced"),
    "mix_cd": Point("mix_cd"),
    "mix_cd, before": Point("mix_cd", before=True),
    "mix_cd by class": Point("mix_cd", by="label"),
    "mix_cd by loss before": Point("mix_cd", by="bin"),
    "adaptive": Point("adaptive"),
    "adaptive, before": Point("adaptive", before=True, options={"since": "zero"}),
    "adaptive, no floor": Point("adaptive", options={"floor": 0.0}),
    "loss_aware": Point("loss_aware"),
    "grasp": Point("grasp", options={"steps": 1200}),
    "uniform, r = 8": Point(exemplars=8),
    **{f"uniform, w = {share}": Point(share=share) for share in SHARES},
    **{f"mix_cd, w = {share}": Point("mix_cd", share=share) for share in SHARES},
    "uniform, r = 8, w = 0.2": Point(exemplars=8, share=0.2),
    "mix_cd, r = 8, w = 0.2": Point("mix_cd", exemplars=8, share=0.2),
}
