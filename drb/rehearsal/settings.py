"""The settings of a rehearsal: what they may be, and that all ranks have the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any, Literal

from drb.buffer.admission import ADMISSIONS, REFILLS, MaxAge, build_admission
from drb.buffer.capacity import SCOPES, check_capacity
from drb.exchange import EXCHANGES
from drb.sampling.proportions import PROPORTIONS, build_proportions

UNEVEN = ("error", "stop")
ARRIVAL = "arrival"  # as sample_id: every offer is a new sample


@dataclass(frozen=True)
class RehearsalSettings:
    """See `Rehearsal`, whose keyword arguments these are."""

    capacity: int | str
    exemplars: int | str
    seed: int = 0
    capacity_scope: str = "rank"
    candidates: int | None = None
    admission: str = "reservoir"
    max_age: int | str | None = None
    refill: str = "none"
    proportions: str = "uniform"
    exchange: str = "auto"
    stratum: str | None = "label"
    sample_id: str = "sample_id"
    asynchronous: bool | Literal["auto"] = "auto"
    min_fill: int = 1
    uneven: str = "error"
    timeout_s: float = 300.0
    depth: int = 1
    interval: int = 1
    draws: int = 1
    batch_size: int | None = None
    num_samples: int | None = None

    def __post_init__(self) -> None:
        check_capacity(self.capacity)
        if str(self.capacity).strip().endswith("%") and self.num_samples is None:
            raise ValueError(
                f"capacity={self.capacity!r} is a share of the data: give num_samples=, the stream's length"
            )
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {getattr(self, name)!r}")
        if self.is_auto:
            check_auto(str(self.exemplars), self.asynchronous)
            if self.draws != 1:
                raise ValueError(
                    f"exemplars={self.exemplars} finds the size of one draw: draws must be 1, got {self.draws}"
                )
        for name, least in _COUNTS:
            value = None if name == "exemplars" and self.is_auto else getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name, kind, what in _KINDS:
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{name} must be {what}, got {value!r}")
        check_ahead(self.depth, self.interval, exemplars=self.exemplars, uneven=self.uneven, exchange=self.exchange)
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0 seconds, got {self.timeout_s}")
        if self.max_age is not None:
            MaxAge.parse(self.max_age)
        if self.timeout_s > _TEN_YEARS_S:
            raise ValueError(f"timeout_s must be below ten years, got {self.timeout_s} seconds")
        build_admission(self.admission, candidates=self.candidates, seed=0, rank=0)
        if self.needs_strata and self.stratum is None:
            raise ValueError(
                f"admission={self.admission} with proportions={self.proportions} needs stratum, a field name"
            )

    @property
    def needs_strata(self) -> bool:
        by_stratum = self.admission in ("class_balanced", "random_replacement")
        return by_stratum or build_proportions(self.proportions).needs_strata

    @property
    def id_field(self) -> str | None:
        """The field that holds sample ids; None if every offer is a new sample."""
        return None if self.sample_id == ARRIVAL else self.sample_id

    @property
    def retention(self) -> str:
        """What describe() says of exemplars that leave; "" if they only ever do by eviction."""
        words = []
        if self.max_age is not None:
            age = self.max_age if isinstance(self.max_age, str) else f"{self.max_age} steps"
            words.append(f"exemplars older than {age} expire")
        if self.refill == "recent" or (self.max_age is not None and self.admission in _WITHOUT_THRESHOLD):
            words.append("slots freed by removal fill with whatever is offered next, so recent samples prevail in them")
        return "; ".join(words)

    def fixed_by_state(self) -> dict[str, Any]:
        """What a saved state goes on with: what is stored follows from it."""
        return {name: getattr(self, name) for name in ("seed", "admission", "refill", "sample_id")}

    def require_saved(self, saved: Mapping[str, Any]) -> None:
        """Raise ValueError naming what differs from what a state was saved with."""
        for name, value in saved.items():
            own = getattr(self, name, None)
            if own != value:
                raise ValueError(
                    f"the state was saved with {name}={value!r}, this rehearsal has {own!r}; resume with the same"
                )

    @property
    def is_auto(self) -> bool:
        """Whether the number of exemplars is to be found out."""
        return isinstance(self.exemplars, str)

    def most_exemplars(self, max_rows: int) -> int:
        """The most that a round draws; max_rows: of a minibatch, the limit of "auto" if it says none."""
        if isinstance(self.exemplars, str):
            return auto_limit(self.exemplars) or max_rows
        return self.exemplars

    def shared_by_all(self) -> dict[str, Any]:
        """What must be equal on all ranks."""
        values = asdict(self)
        del values["batch_size"], values["timeout_s"]
        return values


_WITHOUT_THRESHOLD = ("random_replacement", "fifo")

_TEN_YEARS_S = 3.2e8
_MOST_AHEAD = 1024  # rounds in flight; steps of a round
_COUNTS = (("exemplars", 1), ("draws", 1), ("min_fill", 0), ("batch_size", 1), ("num_samples", 1))
_KINDS: tuple[tuple[str, Any, str], ...] = (
    ("seed", int, "an integer"),
    ("candidates", (int, NoneType), "an integer or None"),
    ("stratum", (str, NoneType), "a field's name or None"),
    ("sample_id", str, 'a field\'s name or "arrival"'),
    ("timeout_s", (int, float), "a number of seconds"),
)


def auto_limit(exemplars: str) -> int | None:
    """The limit N of "auto:N"; None for "auto". Raises ValueError for anything else."""
    match = re.fullmatch(r"auto(?::([1-9]\d*))?", exemplars)
    if match is None:
        raise ValueError(f"exemplars must be an integer of at least 1, auto, or auto:N with a limit, got {exemplars!r}")
    return int(match[1]) if match[1] else None


def check_auto(exemplars: str, asynchronous: bool | str) -> None:
    """Raise ValueError unless exemplars is "auto" or "auto:N" and there is something to hide behind."""
    auto_limit(exemplars)
    if asynchronous is False:
        raise ValueError(
            f"exemplars={exemplars} needs rounds that run behind the training steps: leave asynchronous at its default "
            "or give a number of exemplars"
        )


def check_ahead(
    depth: int, interval: int, *, exemplars: int | str, uneven: str = "error", exchange: str = "auto"
) -> None:
    """Raise ValueError unless rounds can be so many steps ahead, and serve so many steps each."""
    for name, value in (("depth", depth), ("interval", interval)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_AHEAD:
            raise ValueError(f"{name} must be an integer from 1 to {_MOST_AHEAD}, got {value!r}")
        if exchange == "nccl" and name == "depth" and value < 2:
            raise ValueError(
                "exchange=nccl launches a round's rows one round before its exemplars are used: depth must be at least "
                f"2, got {value}"
            )
        if value > 1 and uneven == "stop":
            raise ValueError(
                f'uneven="stop" asks in every step whether a rank has ended: {name} must be 1, got {value}'
            )
        if value > 1 and isinstance(exemplars, str):
            raise ValueError(f"exemplars={exemplars} measures one round behind one step: {name} must be 1, got {value}")


_CHOICES: dict[str, tuple[Any, ...]] = {
    "admission": ADMISSIONS,
    "refill": REFILLS,
    "proportions": tuple(PROPORTIONS),
    "exchange": EXCHANGES,
    "capacity_scope": SCOPES,
    "asynchronous": ("auto", True, False),
    "uneven": UNEVEN,
}


def require_agreement(per_rank: list[Mapping[str, Any]], what: str) -> None:
    """Raise ValueError naming the first key in which the ranks differ, with the values of two of them."""
    for rank, values in enumerate(per_rank):
        for key in sorted(per_rank[0].keys() | values.keys()):
            first, other = per_rank[0].get(key), values.get(key)
            if first != other:
                raise ValueError(
                    f"the ranks disagree on {what} {key!r}: rank 0 has {first!r}, rank {rank} has {other!r}; "
                    "start all ranks with the same configuration and data"
                )
