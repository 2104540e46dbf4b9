"""What proportions have learnt, and feedback that no round has told yet, as a part of a saved state.

It holds `by`, the name and options of the proportions as JSON; `learnt`, what they have observed, alike on all ranks;
`waiting`, this rank's feedback for the next rounds, row by row; `tells_right`, whether that says which rows were right;
and `brought`, sums for the next round that all ranks know: what waited on the ranks there were, if these are others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Learnt:
    """What has to be saved, and who goes on with it. observing, intake: None where nobody learns from feedback."""

    proportions: Proportions
    observing: Observing | None
    intake: FeedbackIntake | None

    def state_dict(self) -> dict[str, Any]:
        """{"learnt": …} for a rehearsal's state; nothing where nothing is learnt."""
        learnt = self.proportions.state_dict()
        if not learnt and self.intake is None:
            return {}
        brought = NOTHING if self.observing is None else self.observing.brought
        state = {
            "by": self._by,
            "learnt": learnt,
            "waiting": {} if self.intake is None else self.intake.state_dict(),
            "tells_right": self.observing is not None and self.observing.needs_correct,
            "brought": {name: getattr(brought, name) for name in _BROUGHT},
        }
        return {"learnt": state}

    def load_state_dict(self, saved: State) -> None:
        """Go on from there.

        Raises:
            ValueError: it is damaged.
        """
        _check(saved)
        uses_it = self.intake is not None or bool(self.proportions.state_dict())
        if self.proportions.goes_on_from(json.loads(saved["by"])):
            self.proportions.load_state_dict(saved["learnt"])
        elif uses_it and saved["learnt"]:
            warn_caller(
                f"the state holds what the proportions {saved['by']} have learnt, which {self._by} do not go on from: "
                "these begin anew"
            )
        if self.observing is None or self.intake is None or (self.observing.needs_correct and not saved["tells_right"]):
            return  # where nobody needed to know which rows were right, all are said to be wrong
        if saved["waiting"]:
            self.intake.load_state_dict(saved["waiting"])
        self.observing.brought = _brought(saved)

    @property
    def _by(self) -> str:
        return json.dumps(identity(self.proportions), sort_keys=True)


def reshard_learnt(states: Sequence[State]) -> dict[str, Any]:
    """The same for any number of ranks: what waited on all of the old ones is brought to each of the new ones.

    Raises:
        ValueError: the ranks had learnt different things, or a state is damaged.
    """
    for rank, saved in enumerate(states):
        _check(saved)
        if saved["by"] != states[0]["by"] or not _are_alike(saved["learnt"], states[0]["learnt"]):
            raise ValueError(
                f"the proportions of ranks 0 and {rank} had learnt different things: give the states of all ranks of "
                "one run, saved after the same step"
            )
    waiting = [saved["waiting"] for saved in states if len(saved["waiting"].get("step", ()))]
    sums = [Feedback.of_rows(rows["stratum"], rows["loss"], rows["right"]) for rows in waiting]
    total = Feedback.joined([_brought(states[0]), *sums])
    nothing: dict[str, Any] = {name: np.empty(0, dtype) for name, dtype in _WAITING.items()}
    return {**states[0], "waiting": nothing, "brought": {name: getattr(total, name) for name in _BROUGHT}}


def _brought(saved: State) -> Feedback:
    return Feedback(**{name: saved["brought"][name] for name in _BROUGHT})


def _check(saved: State) -> None:
    """Raise ValueError if this cannot be what `Learnt.state_dict` gave."""
    waiting, brought = saved["waiting"], saved["brought"]
    is_sound = _is_identity(saved["by"]) and isinstance(saved["tells_right"], bool)
    for columns, dtypes in ((waiting, _WAITING if waiting else {}), (brought, _BROUGHT)):
        shapes = {columns[name].shape for name in dtypes}
        is_sound = is_sound and len(shapes) <= 1 and all(len(shape) == 1 for shape in shapes)
        is_sound = is_sound and all(columns[name].dtype == dtype for name, dtype in dtypes.items())
        is_sound = is_sound and (not dtypes or bool(np.isfinite(columns["loss"]).all()))
    if not is_sound:
        raise ValueError("the rehearsal state is damaged: the feedback in it cannot be")


def _is_identity(text: Any) -> bool:
    """Whether this is a variant's name with its options, as JSON."""
    try:
        return isinstance(json.loads(text), dict)
    except (TypeError, ValueError, RecursionError):
        return False


def _are_alike(one: Any, other: Any) -> bool:
    """Whether two saved states are the same, bit for bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_are_alike(one[name], other[name]) for name in one)
    return bool(np.array_equal(one, other))
