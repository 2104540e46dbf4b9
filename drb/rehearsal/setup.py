"""A rehearsal until its first minibatch, which shows what a record is: what it was told by then, and how it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from drb.buffer.record import RecordSpec, warn_about_float_images
from drb.buffer.snapshot import state_with_rows
from drb.exchange import Peers
from drb.rehearsal.assemble import assemble
from drb.rehearsal.cuda import Device, DeviceExtension
from drb.rehearsal.forget import Forgotten, forget_saved
from drb.rehearsal.intake import Intake
from drb.rehearsal.output import Extension
from drb.rehearsal.selection import SampleIds, Where
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.check import naming_damage
from drb.rehearsal.state.fetched import is_for, uncounted
from drb.rehearsal.state.forget import forget_in_state
from drb.rehearsal.state.loading import SavedState, kind_of_state, own_state, spec_of
from drb.rehearsal.step import Turns
from drb.types import Int64Array, Minibatch, OwnerOf


class Beginning:
    """spec: the records' schema, if it is given; peers: None for one rank.

    saved: the state to go on from, None without one and from the start on. earlier: the statistics up to there.
    """

    def __init__(self, settings: RehearsalSettings, spec: RecordSpec | None, peers: Peers | None) -> None:
        self.saved: Mapping[str, Any] | None = None
        self.earlier: dict[str, Any] = {}
        self._settings = settings
        self._spec = spec
        self._peers = peers
        self._rank, self._world_size = (peers.rank, peers.world_size) if peers else (0, 1)
        self._denied: Int64Array = np.empty(0, np.int64)

    def load(self, state: SavedState, owner_of: OwnerOf | None) -> None:
        """See `Rehearsal.load_state_dict`."""
        saved = own_state(state, owner_of, self._settings, self._spec, self._rank, self._world_size)
        if len(self._denied) and "spec" in saved:  # alike on all ranks, as what follows must be
            saved = forget_in_state(saved, self._denied)
        self.deny(np.asarray(saved.get("denied", ()), np.int64))
        if "spec" in saved:  # not saved before the first minibatch
            self._spec, self.saved = spec_of(saved), saved
            self.earlier = dict(saved["stats"])

    def state_dict(self, lazy: bool) -> dict[str, Any]:
        """See `Rehearsal.state_dict`."""
        saved = self.saved or {**kind_of_state(self._settings, self._world_size), "round": -1}
        return {**state_with_rows(saved, lazy), "denied": self._denied}

    def column(self, name: str) -> Int64Array:
        """Of the loaded exemplars, int64 [n]."""
        column: Int64Array = self.saved["buffer"]["columns"][name] if self.saved else np.empty(0, np.int64)
        return column

    def counts(self) -> dict[int, int]:
        """Loaded exemplars per stratum."""
        values, counts = np.unique(self.column("stratum"), return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def forget(self, sample_ids: SampleIds | None, where: Where | None) -> Forgotten:
        """Collective; the caller denies the ids."""
        forgotten, self.saved = forget_saved(self.saved, self._peers, sample_ids, where)
        self.earlier = dict((self.saved or {}).get("stats", {}))
        return forgotten

    def deny(self, sample_ids: Int64Array) -> None:
        self._denied = np.union1d(self._denied, sample_ids)

    def start(
        self, minibatch: Minibatch, intake: Intake, device: Device | None = None
    ) -> tuple[Turns, Extension | DeviceExtension] | None:
        """Build everything, now that a minibatch shows what a record is. Collective.

        device: where extended minibatches and exemplars are wanted; None: on the host.

        None if no rank's minibatch has rows and nothing else tells how many there will be: that turn does not count.
        """
        settings = self._settings
        intake.check_first(minibatch)
        spec = self._spec or RecordSpec.of(minibatch, exclude=settings.id_field)
        saved, num_rows = self.saved or {}, len(next(iter(minibatch.values())))
        intake.check(minibatch, spec, num_rows)  # before the other ranks are told
        warn_about_float_images(minibatch)
        max_rows = max(settings.batch_size or 0, num_rows, int(saved.get("max_rows", 0)))
        parts = assemble(settings, spec, max_rows, self._peers, device)
        if parts is None:
            return None
        if saved.get("fetched") is not None and not is_for(saved["fetched"], parts.depth, parts.interval):
            self.earlier = uncounted(saved)
            saved = {**saved, "fetched": None}
        turns = Turns(parts, intake, self._peers, settings)
        parts.buffer.deny(self._denied)
        if saved:
            with naming_damage():
                intake.load_state_dict(saved["intake"])
                turns.load_state_dict(saved)
            self.saved = None
        if parts.outlet is not None:
            return turns, DeviceExtension(parts.outlet, spec, parts.max_rows, parts.exemplars, settings.id_field)
        return turns, Extension(spec, parts.max_rows, parts.exemplars, parts.runner.blocks, settings.id_field)
