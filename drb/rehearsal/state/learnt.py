"""What proportions have learnt, and feedback that no round has told yet, as a part of a saved state.

by         what learnt it: the name and options of the proportions, as JSON. stratum: the field of the strata
learnt     what the proportions have observed, alike on all ranks
waiting    this rank's feedback for the next rounds, row by row
brought    sums for the next round that all ranks know already: what was waiting when ranks became more or fewer
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drb.rehearsal.feedback import FeedbackIntake
from drb.rehearsal.observing import Observing
from drb.sampling.feedback import NOTHING, Feedback
from drb.sampling.proportions import Proportions
from drb.variant import identity
from drb.warn import warn_caller

State = Mapping[str, Any]
_WAITING = {"step": np.int64, "stratum": np.int64, "loss": np.float64, "right": np.bool_}
_BROUGHT = {"strata": np.int64, "rows": np.int64, "loss": np.float64, "right": np.int64}


def learnt_state(
    proportions: Proportions, observing: Observing | None, intake: FeedbackIntake | None, stratum: str | None
) -> dict[str, Any]:
    """{"learnt": …} for a state; nothing where nothing is learnt."""
    learnt = proportions.state_dict()
    if not learnt and intake is None:
        return {}
    brought = NOTHING if observing is None else observing.brought
    waiting = {} if intake is None else intake.state_dict()
    return {
        "learnt": {
            "by": _by(proportions),
            "stratum": stratum or "",
            "learnt": learnt,
            "waiting": waiting,
            "brought": {name: getattr(brought, name) for name in _BROUGHT},
        }
    }


def load_learnt(
    state: State,
    proportions: Proportions,
    observing: Observing | None,
    intake: FeedbackIntake | None,
    stratum: str | None,
) -> None:
    """Go on from a rehearsal's state, if something was learnt in it.

    Raises:
        ValueError: by strata of another field; a damaged state.
    """
    saved = state.get("learnt")
    if saved is None:
        return
    check_learnt(saved)
    uses_it = intake is not None or bool(proportions.state_dict())
    if uses_it and saved["stratum"] != (stratum or ""):
        raise ValueError(
            f"the state's proportions learnt by strata of the field {saved['stratum']!r}, this rehearsal has "
            f"stratum={stratum!r}; resume with the same"
        )
    if saved["by"] == _by(proportions):
        proportions.load_state_dict(saved["learnt"])
    elif uses_it and saved["learnt"]:
        warn_caller(
            f"the state holds what the proportions {saved['by']} have learnt, which {_by(proportions)} do not go on "
            "from: these begin anew"
        )
    if observing is not None and intake is not None:
        intake.load_state_dict(saved["waiting"])
        observing.brought = Feedback(**{name: saved["brought"][name] for name in _BROUGHT})


def reshard_learnt(states: Sequence[State]) -> dict[str, Any]:
    """The same for any number of ranks: what waited on all of the old ones is brought to all of the new ones."""
    if "learnt" not in states[0]:
        return {}
    every = [state["learnt"] for state in states]
    for saved in every:
        check_learnt(saved)
    brought = [Feedback(**{name: every[0]["brought"][name] for name in _BROUGHT})]
    waiting = [saved["waiting"] for saved in every if len(saved["waiting"].get("step", ()))]
    brought += [Feedback.of_rows(rows["stratum"], rows["loss"], rows["right"]) for rows in waiting]
    total = Feedback.joined(brought)
    nothing: dict[str, Any] = {name: np.empty(0, dtype) for name, dtype in _WAITING.items()}
    return {
        "learnt": {**every[0], "waiting": nothing, "brought": {name: getattr(total, name) for name in _BROUGHT}},
    }


def check_learnt(saved: State) -> None:
    """Raise ValueError if this cannot be what `learnt_state` gave."""
    waiting, brought = saved["waiting"], saved["brought"]
    is_sound = isinstance(saved["by"], str) and isinstance(saved["stratum"], str)
    for columns, dtypes in ((waiting, _WAITING if waiting else {}), (brought, _BROUGHT)):
        shapes = {columns[name].shape for name in dtypes}
        is_sound = is_sound and len(shapes) <= 1 and all(len(shape) == 1 for shape in shapes)
        is_sound = is_sound and all(columns[name].dtype == dtype for name, dtype in dtypes.items())
        is_sound = is_sound and (not dtypes or bool(np.isfinite(columns["loss"]).all()))
    if not is_sound:
        raise ValueError("the rehearsal state is damaged: the feedback in it cannot be")


def _by(proportions: Proportions) -> str:
    return json.dumps(identity(proportions), sort_keys=True)
