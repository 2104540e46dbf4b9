"""What rounds have fetched for the next steps, as a state that is saved and restored.

Letters: D steps, Q exemplars of all of them, K words of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drb.buffer.record import STRATUM
from drb.rehearsal.exemplars import StepExemplars
from drb.rehearsal.round import RoundRunner
from drb.sampling.sampler import Draw
from drb.types import Int64Array

_OF_DRAW = {"owner": np.int64, "position": np.int64, "weight": np.float64}
_IMPORTANCE = "importance"  # where it was asked for, float64 [Q]


def fetched_state(ready: Sequence[StepExemplars], depth: int, interval: int, draws: int = 1) -> dict[str, Any] | None:
    """counts int64 [D]; rows int64 [Q, K]; owner, position int64 and weight float64 [Q]. None if nothing is ready."""
    if not ready:
        return None
    return {
        "depth": depth,
        "interval": interval,
        "draws": draws,
        "counts": np.array([len(exemplars) for exemplars in ready]),
        "rows": np.concatenate([exemplars.rows for exemplars in ready]),
        **{name: np.concatenate([getattr(e.draw, name) for e in ready]) for name in _names(ready[0].draw)},
    }


def restore_fetched(state: Mapping[str, Any], last_step: int, runner: RoundRunner) -> list[StepExemplars]:
    """Saved after step `last_step`: of the last rounds that were handed in by then, what had not been used."""
    counts = counts_of(state)
    most = runner.blocks.shape[1] // runner.interval
    if counts.max(initial=0) > most:
        raise ValueError(
            f"the saved round holds {counts.max()} exemplars, this rehearsal draws {most}; resume with as many"
        )
    ready, begin = [], 0
    after = last_step // runner.interval * runner.interval + runner.interval  # the step of the last draw, and 1
    for step, count in zip(range(after - len(counts), after), counts.tolist(), strict=True):
        part = slice(begin, begin + count)
        of_draw = {name: state[name][part] for name in (*_OF_DRAW, _IMPORTANCE) if name in state}
        draw = Draw(**of_draw, stratum=state["rows"][part, STRATUM].copy() if runner.by_stratum else None)
        exemplars = runner.exemplars_at(step, draw, runner.block_of(step), step % runner.interval * count)
        exemplars.rows[:] = state["rows"][part]
        ready.append(exemplars)
        begin += count
    return ready


def _names(draw: Draw) -> list[str]:
    """What is saved of a draw; the rows know their strata."""
    return [*_OF_DRAW] if draw.importance is None else [*_OF_DRAW, _IMPORTANCE]


def counts_of(fetched: Mapping[str, Any]) -> Int64Array:
    """The number of exemplars of each step, int64 [D]."""
    return np.asarray(fetched["counts"], np.int64)


def is_for(fetched: Mapping[str, Any], depth: int, interval: int, draws: int = 1, *, importance: bool = False) -> bool:
    """Whether these exemplars are those of the steps that such a rehearsal would use them in.

    importance: it asks for theirs.
    """
    wanted = {"depth": depth, "interval": interval, "draws": draws}
    if importance and _IMPORTANCE not in fetched:
        return False
    return all(int(fetched[name]) == value for name, value in wanted.items())


def uncounted(state: Mapping[str, Any]) -> dict[str, Any]:
    """A saved rehearsal's statistics without the rounds whose exemplars it holds: those will be run again."""
    stats, fetched = dict(state["stats"]), state["fetched"]
    if fetched is not None:
        interval = int(fetched["interval"])
        counts = counts_of(fetched)[::-interval]  # of one step of each round, the last round first
        stats["rounds"] -= len(counts)
        stats["exemplars_fetched"] -= interval * int(counts.sum())
    return stats
