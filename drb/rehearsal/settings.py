"""The settings of a rehearsal: what they may be, and that all ranks have the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from drb.buffer.admission import REFILLS, Admission, build_admission
from drb.buffer.capacity import SCOPES, check_capacity
from drb.buffer.expiry import MaxAge
from drb.exchange import Transport
from drb.options import check_settings, setting
from drb.rehearsal.exchange_registry import AUTO, TRANSPORTS
from drb.sampling.proportions import PROPORTIONS, Proportions
from drb.variant import identity, name_of
from drb.warn import warn_caller

if TYPE_CHECKING:
    from drb.rehearsal.auto_setting import AutoSetting

ARRIVAL = "arrival"  # as sample_id: every offer is a new sample
LABEL = "label"  # as stratum: a sample's class, which does not change, as other groups may
_TEN_YEARS_S = 3.2e8
_MOST_AHEAD = 1024  # rounds in flight; steps of a round


@dataclass(frozen=True)
class RehearsalSettings:
    """The settings of a rehearsal, their defaults and their limits; `Rehearsal` says what each of them means.

    The keyword arguments of `Rehearsal` and the section `rehearsal` of the program's configuration are these fields;
    tests compare them.
    """

    capacity: int | str
    exemplars: int | str
    seed: int = 0
    capacity_scope: str = setting("rank", one_of=SCOPES)
    candidates: int | None = setting(None, at_least=1)
    admission: str | type[Admission] | Admission = "reservoir"
    max_age: int | str | None = None
    refill: str = setting("none", one_of=REFILLS)
    proportions: str | type[Proportions] | Proportions = "uniform"
    exchange: str | type[Transport] | Transport = AUTO
    storage: str = setting("auto", one_of=("auto", "host", "device", "mmap"))
    storage_folder: str | None = None
    device_share: float = setting(0.25, above=0, at_most=1)
    stratum: str | None = LABEL
    sample_id: str = "sample_id"
    asynchronous: bool | Literal["auto"] = setting("auto", one_of=("auto", True, False))
    min_fill: int = setting(1, at_least=0)
    uneven: str = setting("error", one_of=("error", "stop"))
    timeout_s: float = setting(300.0, above=0, at_most=_TEN_YEARS_S)
    depth: int = setting(1, at_least=1, at_most=_MOST_AHEAD)
    interval: int = setting(1, at_least=1, at_most=_MOST_AHEAD)
    draws: int = setting(1, at_least=1)
    importance: bool = False
    batch_size: int | None = setting(None, at_least=1)
    num_samples: int | None = setting(None, at_least=1)
    data: str | None = None
    prefilled: str | None = None

    def __post_init__(self) -> None:
        check_capacity(self.capacity)
        if str(self.capacity).strip().endswith("%") and self.num_samples is None:
            raise ValueError(
                f"capacity={self.capacity!r} is a share of the data: give num_samples=, the stream's length"
            )
        check_exemplars(self.exemplars)
        if self.max_age is not None:
            MaxAge.parse(self.max_age)
        check_settings(self)
        if (self.storage == "mmap") != (self.storage_folder is not None):
            raise ValueError(
                f"storage=mmap and storage_folder, a folder on the node's own disk, go together: got storage="
                f"{self.storage} with storage_folder={self.storage_folder}"
            )
        if self.is_auto:
            check_auto(str(self.exemplars), self.asynchronous)
            if self.draws != 1:
                raise ValueError(
                    f"exemplars={self.exemplars} finds the size of one draw: draws must be 1, got {self.draws}"
                )
        check_ahead(self.depth, self.interval, exemplars=self.exemplars, uneven=self.uneven)
        self._check_variants()
        if self.importance and not (self.policy.stores_evenly and self.refill == "none" and self.max_age is None):
            raise ValueError(
                f"importance weights need buffers in which every sample offered is as likely to be: set "
                f"admission=reservoir, refill=none and max_age=null, got admission={name_of(self.policy)}, "
                f"refill={self.refill} and max_age={self.max_age}"
            )

    def _check_variants(self) -> None:
        identity(self.policy)
        identity(self.shares)
        if self.transport is not None:
            identity(self.transport)
            name, least = name_of(self.transport), self.transport.least_depth
            if self.depth < least:
                raise ValueError(
                    f"exchange={name} needs {least} rounds in flight: depth must be at least {least}, got {self.depth}"
                )
        if self.needs_strata and self.stratum is None:
            raise ValueError(f"{self.choices} needs stratum, a field name")

    @cached_property
    def policy(self) -> Admission:
        """The admission policy, without state of its own: for what it states, and for its options."""
        return self.new_admission(rank=0)

    def new_admission(self, rank: int) -> Admission:
        """An admission policy for the buffer of a rank."""
        return build_admission(
            self.admission, seed=self.seed, rank=rank, candidates=self.candidates, refill=self.refill
        )

    @cached_property
    def shares(self) -> Proportions:
        """The proportions in which the parts of the union are drawn from."""
        return PROPORTIONS.build(self.proportions)

    @cached_property
    def transport(self) -> Transport | None:
        """How rows travel between ranks; None: auto."""
        return None if self.exchange == AUTO else TRANSPORTS.build(self.exchange)

    @property
    def choices(self) -> str:
        """How messages name the admission policy and the proportions."""
        return f"admission={name_of(self.policy)} with proportions={name_of(self.shares)}"

    @property
    def needs_strata(self) -> bool:
        """Whether exemplars are counted by stratum."""
        return self.policy.needs_strata or self.shares.needs_strata

    @property
    def needs_offered(self) -> bool:
        """Whether distinct offers are counted."""
        return self.shares.needs_offered or self.importance

    @property
    def needs_feedback(self) -> bool:
        """Whether something depends on what `Rehearsal.feedback` tells."""
        return self.shares.needs_feedback or self.epsilon is not None

    @property
    def learner(self) -> str:
        """What learns from feedback, as messages name it."""
        return self.choices if self.shares.needs_feedback else f"exemplars={self.exemplars}"

    @property
    def needs_correct(self) -> bool:
        """Whether of that not only losses are needed, but also which exemplars were right."""
        return self.shares.needs_correct or self.epsilon is not None

    @property
    def needs_tasks(self) -> bool:
        """Whether something depends on what `Rehearsal.begin_task` tells."""
        return self.shares.needs_tasks or self.epsilon is not None

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
        if self.refill == "recent" or (self.max_age is not None and self.policy.refills_always):
            words.append("slots freed by removal fill with whatever is offered next, so recent samples prevail in them")
        return "; ".join(words)

    def fixed_by_state(self) -> dict[str, Any]:
        """What a saved state goes on with, since what is stored follows from it; strings and numbers by name."""
        policy = identity(self.policy)
        options = {f"admission.{option}": value for option, value in policy.items() if option != "name"}
        of_stream = {"seed": self.seed, "sample_id": self.sample_id, "stratum": self.stratum, "data": self.data}
        return {**of_stream, "admission": policy["name"], **options}

    def require_saved(self, saved: Mapping[str, Any]) -> None:
        """Raise ValueError naming what differs from what a state was saved with."""
        own = self.fixed_by_state()
        if self.stratum is None:  # nothing is counted by it any more
            own["stratum"] = saved.get("stratum")
        for name in [*own, *(saved.keys() - own.keys())]:
            if saved.get(name) == own.get(name):
                continue
            if name == "data" and None in (saved.get(name), own[name]):
                with_data, without = ("this rehearsal", "state") if own[name] else ("the state", "rehearsal")
                warn_caller(
                    f"{with_data} has data={own[name] or saved[name]!r} and the {without} has none, so it was not "
                    "compared whether the data has changed: give data= always"
                )
            else:
                raise ValueError(
                    f"the state was saved with {name}={saved.get(name)!r}, this rehearsal has {own.get(name)!r}; "
                    "resume with the same"
                )

    @property
    def is_auto(self) -> bool:
        """Whether the number of exemplars is to be found out."""
        return isinstance(self.exemplars, str)

    @property
    def epsilon(self) -> float | None:
        """How much accuracy the number of exemplars may let go; None if it does not follow from accuracy."""
        return auto_of(self.exemplars).epsilon if isinstance(self.exemplars, str) else None

    def most_exemplars(self, max_rows: int) -> int:
        """The most that a round draws; max_rows: of a minibatch, the limit of "auto" if it says none."""
        if isinstance(self.exemplars, str):
            return auto_of(self.exemplars).limit or max_rows
        return self.exemplars

    def shared_by_all(self) -> dict[str, Any]:
        """What must be equal on all ranks."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["batch_size"], values["timeout_s"], values["candidates"], values["refill"]
        chosen = {"admission": self.policy, "proportions": self.shares, "exchange": self.transport}
        for kind, variant in chosen.items():
            own: dict[str, Any] = {"name": AUTO} if variant is None else identity(variant)
            values[kind] = own.pop("name")
            values |= {f"{kind}.{option}": value for option, value in own.items()}
        return values


def auto_of(exemplars: str) -> AutoSetting:
    """What one of the forms of "auto" asks for. Raises ValueError for anything else."""
    from drb.rehearsal.auto_setting import AutoSetting  # seldom needed

    return AutoSetting.parse(exemplars)


def check_exemplars(exemplars: int | str) -> None:
    """Raise ValueError unless exemplars is a number that can be drawn, or one of the forms of "auto"."""
    if isinstance(exemplars, str):
        auto_of(exemplars)
    elif not isinstance(exemplars, int) or isinstance(exemplars, bool) or exemplars < 1:
        raise ValueError(f"exemplars must be an integer of at least 1, auto, or auto:N with a limit, got {exemplars!r}")


def check_auto(exemplars: str, asynchronous: bool | str) -> None:
    """Raise ValueError unless exemplars is one of the forms of "auto", with something to hide behind if it is timed."""
    if auto_of(exemplars).epsilon is None and asynchronous is False:
        raise ValueError(
            f"exemplars={exemplars} needs rounds that run behind the training steps: leave asynchronous at its default "
            "or give a number of exemplars"
        )


def check_ahead(depth: int, interval: int, *, exemplars: int | str, uneven: str = "error") -> None:
    """Raise ValueError unless rounds can be so many steps ahead, and serve so many steps each."""
    for name, value in (("depth", depth), ("interval", interval)):
        if value > 1 and uneven == "stop":
            raise ValueError(
                f'uneven="stop" asks in every step whether a rank has ended: {name} must be 1, got {value}'
            )
        if value > 1 and isinstance(exemplars, str) and auto_of(exemplars).epsilon is None:
            raise ValueError(f"exemplars={exemplars} measures one round behind one step: {name} must be 1, got {value}")


def require_agreement(
    per_rank: list[Mapping[str, Any]],
    what: str,
    advice: str = "start all ranks with the same configuration and data",
) -> None:
    """Raise ValueError naming the first key in which the ranks differ, with the values of two of them."""
    for rank, values in enumerate(per_rank):
        for key in sorted(per_rank[0].keys() | values.keys()):
            first, other = per_rank[0].get(key), values.get(key)
            if first != other:
                raise ValueError(
                    f"the ranks disagree on {what} {key!r}: rank 0 has {first!r}, rank {rank} has {other!r}; {advice}"
                )
