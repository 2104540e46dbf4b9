"""From a minibatch to what admission decides on: ids, strata, keys. Checks it, so that a broken one changes nothing.

Letters: B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from drb.buffer.admission import Columns, Offer
from drb.buffer.record import RecordSpec
from drb.data.sampler_order import OrderCheck, Shard, shard_of
from drb.rehearsal.settings import LABEL, RehearsalSettings
from drb.sampling.distinct import DistinctCounter
from drb.seeding import sample_ids_of, sample_keys
from drb.types import Int64Array, Minibatch, OwnerOf, UInt64Array
from drb.variant import name_of

if TYPE_CHECKING:
    from drb.rehearsal.ledger.recorder import Recorder

REHEARSED = "rehearsed"  # the field that `extend` adds
_ID_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Offered:
    """What a rank has offered until a step.

    distinct: samples; 0 unless the proportions need it. shard: what the last minibatch was of; None if not known.
    """

    distinct: int = 0
    shard: Shard | None = None

    @cached_property
    def shard_word(self) -> int:
        """The shard as an integer that differs for different ones; 0 if it is not known."""
        digest = b"" if self.shard is None else blake2b(repr(self.shard).encode(), digest_size=7).digest()
        return int.from_bytes(digest, "big")


class Intake:
    """Checks what is offered, and counts it.

    offered: so far.
    id_field, stratum: the fields of sample ids and of strata; None: there is none.
    labelled: what is stored, with labels as strata; None: there are no labels, or they may change.
    recorder: logs what is offered.
    """

    def __init__(self, settings: RehearsalSettings, rank: int, world_size: int) -> None:
        self.offered = Offered()
        self.labelled: Columns | None = None
        self.recorder: Recorder | None = None
        self._settings = settings
        self.id_field, self.stratum = settings.id_field, settings.stratum
        self._needs_strata = settings.needs_strata
        self._rank = rank
        self._world_size = world_size
        self._order = OrderCheck()
        self._arrivals = 0  # rows so far; with sample_id="arrival" their ids follow from it
        self._distinct = DistinctCounter() if settings.needs_offered else None

    def check_first(self, minibatch: Minibatch) -> None:
        """Raise ValueError if the settings name fields that the minibatch lacks."""
        settings = self._settings
        if self.id_field is not None and self.id_field not in minibatch:
            raise ValueError(
                f"the minibatch has no field {self.id_field!r} (it has {_names(minibatch)}): wrap the dataset "
                'in drb.with_ids, or say sample_id="arrival" if every offer is a new sample'
            )
        if self._needs_strata and settings.stratum not in minibatch:
            raise ValueError(
                f"{settings.choices} counts exemplars by the field "
                f"{settings.stratum!r}, which the minibatch lacks (it has {_names(minibatch)}); set stratum="
            )
        if settings.stratum not in (None, LABEL, *minibatch):  # it is the default, which a stream may lack
            raise ValueError(
                f"stratum={settings.stratum!r} names no field of the minibatch (it has {_names(minibatch)}); set "
                "stratum= to one of them, or to None"
            )

    def shard_of(self, minibatch: Minibatch) -> Shard | None:
        """The shard of the sampler that gave a checked minibatch; None if that is not known."""
        ids = None if self.id_field is None else minibatch[self.id_field]
        return None if ids is None else shard_of(ids.detach().cpu().numpy().astype(np.int64))

    def check(
        self, minibatch: Minibatch, spec: RecordSpec, max_rows: int
    ) -> tuple[Tensor | None, Tensor | None, Minibatch]:
        """Check a minibatch, wherever its values lie, and change nothing.

        Returns:
            Sample ids and strata, integers [B] each, None where there are no such fields; and the record's fields.
        Raises:
            ValueError: fields that differ from the schema, or more rows than max_rows.
        """
        num_rows = next(iter(minibatch.values())).shape[0]  # len() of a tensor takes ten times as long
        if num_rows > max_rows:
            raise ValueError(
                f"a minibatch of {num_rows} rows after one of {max_rows}: memory was allocated for the first; give the "
                "largest minibatch's size as batch_size="
            )
        ids, fields, stratum = None, minibatch, self.stratum
        if self.id_field is not None:
            fields = dict(minibatch)
            ids = fields.pop(self.id_field, None)
            if ids is None:
                raise ValueError(f"the minibatch has no field {self.id_field!r}; it has {_names(minibatch)}")
            if ids.dtype not in _ID_DTYPES:
                raise ValueError(f"the sample id field {self.id_field!r} must hold integers, got {ids.dtype}")
            if ids.shape != (num_rows,):
                raise _no_integers(ids, "sample id", self.id_field, num_rows)
        spec.check(fields, num_rows)
        if stratum in spec.integers:
            return ids, fields[stratum], fields
        if self._needs_strata and stratum in fields:
            raise _no_integers(fields[stratum], "stratum", stratum, num_rows)
        return ids, None, fields

    def take(self, minibatch: Minibatch, spec: RecordSpec, max_rows: int, round_: int) -> tuple[Offer, Minibatch]:
        """Check a minibatch on the CPU and count it; return the offer of round `round_` and the record's fields.

        Raises:
            ValueError: as `check`; nothing was counted.
        """
        ids, strata, fields = self.check(minibatch, spec, max_rows)
        return self.offer(ids, strata, next(iter(minibatch.values())).shape[0], round_), fields

    def offer(self, ids: Tensor | None, strata: Tensor | None, num_rows: int, round_: int) -> Offer:
        """Count a minibatch that was checked, and return its offer; ids and strata as `check` gave them, on the CPU.

        Raises:
            ValueError: the ids do not follow the order of their sampler, or a sample is stored with another label;
                nothing was counted.
        """
        if ids is not None:
            sample_id = np.ascontiguousarray(ids.numpy(), dtype=np.int64)
        else:
            arrival = self._arrivals + np.arange(num_rows, dtype=np.int64)
            sample_id = arrival * self._world_size + self._rank
        if strata is not None:
            stratum = np.ascontiguousarray(strata.numpy(), dtype=np.int64)
        else:
            stratum = np.full(num_rows, -1, np.int64)
        keys = sample_keys(sample_id, self._settings.seed)
        if ids is not None:
            if strata is not None and self.labelled is not None and num_rows:
                self._require_same_label(self.labelled, sample_id, stratum, keys)
            self._order.check(sample_id)
            if self._order.shard is not self.offered.shard:
                self.offered = replace(self.offered, shard=self._order.shard)
        self._arrivals += num_rows
        if self._distinct is not None:
            self._distinct.add(keys)
            self.offered = replace(self.offered, distinct=self._distinct.count())
        if self.recorder is not None:
            self.recorder.offer(round_, sample_id)
        return Offer(sample_id, stratum, keys, round_)

    def _require_same_label(self, stored: Columns, sample_id: Int64Array, label: Int64Array, keys: UInt64Array) -> None:
        """Raise ValueError if a sample is stored with another label than it is offered with.

        Of the minibatch it looks at the sample with the smallest key, the one that is most likely to be stored, and
        finds about seven in ten of those that are: two data sets that share ids are found out within a few minibatches.
        """
        row = keys.argmin()
        before = stored.stratum_of(int(sample_id[row]), int(keys[row]))
        if before is not None and before != label[row]:
            raise ValueError(
                f"sample {sample_id[row]} is stored with the {self.stratum} {before} and is now offered "
                f"with {label[row]}: two data sets share ids (give each a range of its own, with_ids(…, first_id=…)), "
                "or the data is not that of the saved state; if labels may change, give stratum=None"
            )

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"arrivals": self._arrivals}
        if self._distinct is not None:
            state["distinct"] = self._distinct.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._arrivals = int(state["arrivals"])
        if self._distinct is not None:
            if "distinct" not in state:
                shares = self._settings.shares
                needing = f"proportions={name_of(shares)}" if shares.needs_offered else "importance=True"
                raise ValueError(
                    f"the saved state has no count of distinct offers, which {needing} needs: begin with it, or go on "
                    "without"
                )
            self._distinct.load_state_dict(state["distinct"])
            self.offered = replace(self.offered, distinct=self._distinct.count())


def reshard_intake(
    states: Sequence[Mapping[str, Any]], rank: int, world_size: int, owner_of: OwnerOf, seed: int
) -> dict[str, Any]:
    """The state of one of `world_size` ranks, from those of the ranks there were.

    Arrivals go on above every id that was given; distinct offers are counted where their samples belong now.
    """
    arrivals = max(int(state["arrivals"]) for state in states)
    resharded: dict[str, Any] = {"arrivals": -(-arrivals * len(states) // world_size)}
    if all("distinct" in state for state in states):
        merged = DistinctCounter.merge([state["distinct"] for state in states])
        own = owner_of(sample_ids_of(merged["keys"], seed)) == rank
        resharded["distinct"] = {**merged, "keys": merged["keys"][own]}
    return resharded


def _no_integers(values: Tensor, what: str, field: str, num_rows: int) -> ValueError:
    return ValueError(
        f"the {what} field {field!r} must be one integer per row, got {values.dtype} {list(values.shape)} "
        f"for {num_rows} rows"
    )


def on_cpu(minibatch: Minibatch) -> Minibatch:
    """The fields in host memory, without their gradients' history. Raises ValueError as `require_fields`."""
    is_plain = require_fields(minibatch)
    return minibatch if is_plain else {name: value.detach().cpu() for name, value in minibatch.items()}


def require_fields(minibatch: Minibatch) -> bool:
    """Whether all values are in host memory, without gradients' history.

    Raises:
        ValueError: no fields; one that is no batch of values, or has a name that is taken.
    """
    if not isinstance(minibatch, Mapping) or not minibatch:
        what = "has no fields" if isinstance(minibatch, Mapping) else f"is a {type(minibatch).__name__}"
        raise ValueError(f'the minibatch {what}; give a dict of tensors such as {{"image", "label", "sample_id"}}')
    if REHEARSED in minibatch:
        raise ValueError(
            f"the minibatch has a field {REHEARSED!r}, which extend() adds: give it the loader's minibatch"
        )
    is_plain = True
    for name, value in minibatch.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            raise ValueError(f"field {name!r} must be a tensor with a batch dimension, got {_described(value)}")
        if value.is_cpu and value.layout is torch.strided:
            is_plain &= not value.requires_grad
            continue
        if value.layout is not torch.strided or value.is_meta:
            raise ValueError(f"field {name!r} must be a dense tensor with values, got {_described(value)}")
        is_plain = False
    return is_plain


def _names(minibatch: Minibatch) -> list[str]:
    return sorted(minibatch, key=str)  # a name may be anything until it is refused


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.dim() == 0:
        return "a single number"
    return f"one on {value.device}, {value.layout}"
