"""Whether a saved rehearsal state can be what `Rehearsal.state_dict` gave, and the schema and policy that it names.

Files are guarded by checksums; this guards against states that were put together or changed by something else. Content
that fits together is taken at its word.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from drb.buffer.admission import ADMISSIONS, Admission
from drb.buffer.record import SAMPLE_ID, RecordSpec
from drb.rehearsal.state.fetched import counts_of

FORMAT = 4  # 3 did not state the options of the admission policy; 2 laid out fields in the order given
_COLUMNS = {"key": np.uint64, "sample_id": np.int64, "stratum": np.int64, "admitted_round": np.int64}


def check_state(state: Mapping[str, Any]) -> RecordSpec:
    """The schema of a state that has one.

    Raises:
        ValueError: what in it is missing, or does not fit the rest.
    """
    with naming_damage():
        spec = spec_in(state)
        _require(isinstance(state["settings"], Mapping) and isinstance(state["stats"], Mapping), "settings or stats")
        _require(
            _is_count(state["round"]) and _is_count(state["max_rows"]) and state["max_rows"] > 0, "round or max_rows"
        )
        _require(_is_count(state["intake"]["arrivals"]), "intake")
        _check_buffer(state["buffer"], spec)
        _check_fetched(state["fetched"], spec)
        _require(np.asarray(state.get("denied", ()), np.int64).ndim == 1, "denied ids")
    return spec


def spec_in(state: Mapping[str, Any]) -> RecordSpec:
    """The schema of a state that has one."""
    return RecordSpec.from_json(json.loads(state["spec"]))


def require_format(state: Mapping[str, Any]) -> None:
    """Raise ValueError if another version of drb, whose rows may lie otherwise, saved this state."""
    if state.get("format") != FORMAT:
        raise ValueError(
            f"this is a rehearsal state of format {state.get('format')}, this version reads format {FORMAT}"
        )


@contextlib.contextmanager
def naming_damage() -> Iterator[None]:
    """Whatever goes wrong with a state's content is the state's fault.

    Raises:
        ValueError: instead of a KeyError and the like.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, json.JSONDecodeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"the rehearsal state is damaged: {' '.join(reason.split())}") from error


def policy_of(settings: Mapping[str, Any]) -> Admission:
    """A policy as a state's settings name it, with the saved options and no state of its own yet.

    Nothing is imported for it: a class outside drb counts only if this process was told of it otherwise.

    Raises:
        ValueError: such a class; options that no policy of this name can have.
    """
    with naming_damage():
        options = {name[len("admission.") :]: value for name, value in settings.items() if "admission." in name}
        policy = ADMISSIONS.build(ADMISSIONS.recall(settings["admission"]), options)
        policy.begin(int(settings["seed"]), rank=0)
    return policy


def _check_buffer(buffer: Mapping[str, Any], spec: RecordSpec) -> None:
    columns, staged, size = buffer["columns"], buffer["staged"], int(buffer["size"])
    ids = columns["sample_id"]
    for name, dtype in _COLUMNS.items():
        _require(columns[name].dtype == dtype and columns[name].shape == (len(ids),), f"column {name}")
    for name in ("rows", "slots"):
        _require(staged[name].dtype == np.int64 and staged[name].shape == (len(staged["slots"]),), f"staged {name}")
    slots, rows = staged["slots"], staged["rows"]
    _require(_are_places(slots, len(ids)) and _are_places(rows, int(staged["offered"])), "staged slots or rows")
    again = staged.get("again", np.empty(0, np.int64))
    _require(_are_places(again, len(slots)) and bool((slots[again] < size).all()), "staged samples that came again")
    _require(size >= 0 and len(ids) == size + int((slots >= size).sum()), "size")
    _require(len(np.unique(ids)) == len(ids), "sample ids, which come twice")
    _require(tuple(buffer["rows"].shape) == (size + len(slots), spec.words), "rows")
    _require(getattr(buffer["rows"], "dtype", np.int64) == np.int64, "rows")  # those that are read later are int64
    if isinstance(buffer["rows"], np.ndarray):  # not read from a file later, which has its own checksums
        row = np.arange(len(ids))
        row[slots] = size + np.arange(len(slots))
        _require(np.array_equal(buffer["rows"][row, SAMPLE_ID], ids), "rows, which are of other samples than its ids,")
    _require(set(buffer["lacking"]) <= set(spec.late), "lacking late fields")
    _require(isinstance(buffer["admission"], Mapping), "admission")
    _check_undecided(buffer, spec)


def _check_undecided(buffer: Mapping[str, Any], spec: RecordSpec) -> None:
    """What admission has not decided on, because late fields are lacking: the whole minibatch that was offered."""
    undecided = buffer["undecided"]
    if undecided is None:
        return
    offered = int(buffer["staged"]["offered"])
    for name, dtype, shape in (("rows", np.int64, (offered, spec.words)), ("key", np.uint64, (offered,))):
        _require(undecided[name].dtype == dtype and undecided[name].shape == shape, f"undecided {name}")
    _require(_is_count(undecided["round"]), "undecided round")
    _require(len(buffer["staged"]["slots"]) == 0 and len(buffer["lacking"]) > 0, "undecided samples")


def _check_fetched(fetched: Mapping[str, Any] | None, spec: RecordSpec) -> None:
    if fetched is None:
        return
    count = len(fetched["rows"])
    _require(fetched["rows"].dtype == np.int64 and fetched["rows"].shape == (count, spec.words), "fetched rows")
    for name, dtype in (("owner", np.int64), ("position", np.int64), ("weight", np.float64)):
        _require(fetched[name].dtype == dtype and fetched[name].shape == (count,), f"fetched {name}")
    counts = counts_of(fetched)
    _require(counts.ndim == 1 and len(counts) > 0 and int(counts.min()) >= 0, "fetched counts")
    _require(int(counts.sum()) == count, "fetched counts")
    depth, interval = int(fetched["depth"]), int(fetched["interval"])
    _require(depth > 0 and interval > 0 and len(counts) < (depth + 1) * interval, "fetched depth or interval")


def _are_places(values: Any, end: int) -> bool:
    """Distinct and in [0, end)."""
    inside = len(values) == 0 or (int(values.min()) >= 0 and int(values.max()) < end)
    return inside and len(np.unique(values)) == len(values)


def _is_count(value: Any) -> bool:
    """Also with room to count on in 64 bits."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= int(value) < 1 << 62


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"the rehearsal state is damaged: its {what} cannot be")
