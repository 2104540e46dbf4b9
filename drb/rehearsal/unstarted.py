"""A rehearsal before its first minibatch, which shows what a record is: what it was told so far, and how it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from drb.buffer.record import RecordSpec, warn_about_float_images
from drb.buffer.snapshot import state_with_rows
from drb.data.sampler_order import Shard
from drb.exchange import Peers
from drb.rehearsal.build_parts import PartsFactory, build_parts
from drb.rehearsal.cuda import DeviceExtension, DeviceIntake, find_device
from drb.rehearsal.forget import Forgotten, forget_saved
from drb.rehearsal.handshake import greet_finished
from drb.rehearsal.intake import Intake, on_cpu, require_fields
from drb.rehearsal.output import Extension
from drb.rehearsal.parts import Parts
from drb.rehearsal.pipeline import Pipeline
from drb.rehearsal.running import Running
from drb.rehearsal.selection import SampleIds, Where
from drb.rehearsal.settings import LABEL, RehearsalSettings
from drb.rehearsal.state.check import naming_damage, spec_in
from drb.rehearsal.state.fetched import is_for, uncounted
from drb.rehearsal.state.forget import forget_in_state
from drb.rehearsal.state.loading import SavedState, kind_of_state, own_state
from drb.rehearsal.state.origin import Origin, start_of
from drb.rehearsal.step import Output, Steps
from drb.types import Int64Array, Minibatch, OwnerOf
from drb.variant import identity, name_of

if TYPE_CHECKING:
    from drb.rehearsal.ledger.recorder import Recorder
    from drb.rehearsal.tasks import BegunTask
    from drb.sampling.proportions.base import History


class Unstarted:
    """What is known before the first minibatch.

    spec: the records' schema, if it is given. peers: None for one rank. factory: builds the parts.
    wanted: the device where results are wanted; None: where the first minibatch lies.
    group: the members' ranks in the default group.

    recorder: logs what the rehearsal does.
    saved: the state to go on from, None without one and from the start on. earlier: the statistics up to there.
    task: that has begun, if it was told. begins_task: since the state was saved.
    """

    def __init__(
        self,
        settings: RehearsalSettings,
        spec: RecordSpec | None,
        peers: Peers | None,
        factory: PartsFactory,
        wanted: Any = None,
        group: Sequence[int] = (0,),
    ) -> None:
        self.recorder: Recorder | None = None
        self.saved: Mapping[str, Any] | None = None
        self.earlier: dict[str, Any] = {}
        self.task: BegunTask | None = None
        self.begins_task = False
        self._settings = settings
        self._spec = spec
        self._peers = peers
        self._factory = factory
        self._is_device_given = wanted is not None
        self._device = find_device(wanted, {})
        self._rank, self._world_size = (peers.rank, peers.world_size) if peers else (0, 1)
        self._origin = Origin(self._rank, self._world_size, tuple(group))
        self._intake = Intake(settings, self._rank, self._world_size)
        self._denied: Int64Array = np.empty(0, np.int64)

    # -- what is known

    def column(self, name: str) -> Int64Array:
        """One column of the loaded exemplars, int64 [n]."""
        column: Int64Array = self.saved["buffer"]["columns"][name] if self.saved else np.empty(0, np.int64)
        return column

    def counts(self, *, wait: bool = True) -> dict[int, int]:
        """Loaded exemplars per stratum. wait: there is nothing to wait for."""
        values, counts = np.unique(self.column("stratum"), return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def sample_ids(self) -> Int64Array:
        """Ids of the loaded exemplars: int64 [n]."""
        return self.column("sample_id")

    def ages(self) -> Int64Array:
        """Minibatches since each loaded exemplar was stored: int64 [n]."""
        return int((self.saved or {"round": 0})["round"]) - self.column("admitted_round")

    def begin_task(self, index: int, accuracies: History) -> None:
        """A task begins. Collective."""
        from drb.rehearsal.tasks import agreed_task  # seldom needed

        self.task, self.begins_task = agreed_task(index, accuracies, self._settings, self._peers), True

    # -- erasure

    def forget(self, sample_ids: SampleIds | None, where: Where | None) -> Forgotten:
        """Remove exemplars from the loaded state. Collective; the caller denies the ids."""
        if where is not None and self._settings.prefilled is not None:
            raise ValueError(
                "forget(where=…) looks at the prefilled samples, which are opened at the first minibatch: call it then"
            )
        forgotten, self.saved = forget_saved(self.saved, self._peers, sample_ids, where)
        self.earlier = dict((self.saved or {}).get("stats", {}))
        return forgotten

    def deny(self, sample_ids: Int64Array) -> None:
        """Never store these samples."""
        self._denied = np.union1d(self._denied, sample_ids)

    # -- state

    def load(self, state: SavedState, owner_of: OwnerOf | None, anew: bool) -> None:
        """See `Rehearsal.load_state_dict`."""
        if self.begins_task and self.saved is None:
            raise ValueError("load_state_dict must come before begin_task(): the state names the task that had begun")
        saved = own_state(state, owner_of, self._settings, self._spec, self._origin, anew)
        if len(self._denied) and "spec" in saved:  # alike on all ranks, as what follows must be
            saved = forget_in_state(saved, self._denied)
        self.deny(np.asarray(saved.get("denied", ()), np.int64))
        if not isinstance(task := saved.get("task", ""), str) or task:
            from drb.rehearsal.tasks import BegunTask  # seldom needed

            self.task = BegunTask.of_json(task)
            self.begins_task = saved.get("begins_task") is True
        if "spec" in saved:  # not saved before the first minibatch
            self._spec, self.saved = spec_in(saved), saved
            self.earlier = dict(saved["stats"])

    def state_dict(self, *, lazy: bool) -> dict[str, Any]:
        """See `Rehearsal.state_dict`."""
        saved = self.saved or {**kind_of_state(self._settings, self._origin), "round": -1}
        task = "" if self.task is None else self.task.to_json()
        told = {"task": task, "begins_task": self.begins_task}
        return {**state_with_rows(saved, lazy), "denied": self._denied, **told}

    # -- the start, or an end before it

    def start(self, minibatch: Minibatch) -> Running | None:
        """Build everything, now that a minibatch shows what a record is. Collective.

        None if no rank's minibatch has rows and nothing else tells how many there will be: that step does not count.
        """
        settings, intake = self._settings, self._intake
        is_plain = require_fields(minibatch)
        if not self._is_device_given:
            self._device = find_device(None, minibatch)
        if not is_plain and not (self._device and any(map(self._device.owns, minibatch.values()))):
            minibatch = on_cpu(minibatch)
        intake.check_first(minibatch)
        spec = self._spec or RecordSpec.of(minibatch, exclude=settings.id_field)
        num_rows = len(next(iter(minibatch.values())))
        intake.check(minibatch, spec, num_rows)  # before the other ranks are told
        warn_about_float_images(minibatch)
        start = start_of(minibatch, settings.seed, settings.id_field)
        return self._build(spec, num_rows, start, intake.shard_of(minibatch))

    def resume(self) -> Running | None:
        """Build everything from the loaded state, for what is done before the first minibatch. Collective.

        None if there is no state that shows what a record is.
        """
        return None if self.saved is None or self._spec is None else self._build(self._spec, 0, "", None)

    def _build(self, spec: RecordSpec, num_rows: int, start: str, shard: Shard | None) -> Running | None:
        saved = self.saved or {}
        if self.task is None and self._settings.shares.needs_tasks:
            raise ValueError(
                f"proportions={name_of(self._settings.shares)} follows tasks: call rehearsal.begin_task(index) before "
                "the first minibatch of each"
            )
        max_rows = max(self._settings.batch_size or 0, num_rows, int(saved.get("max_rows", 0)))
        parts = build_parts(
            self._settings,
            spec,
            max_rows,
            self._peers,
            self._device,
            self._factory,
            origin=self._origin,
            start=start,
            saved=saved,
            shard=shard,
            denied=self._denied,
        )
        if parts is None:
            return None
        fetched = saved.get("fetched")
        mapped = "" if parts.prefilled is None else parts.prefilled.fingerprint
        with naming_damage():
            is_other = saved.get("prefilled", "") != mapped  # its samples are not in the union that was drawn from
            if fetched is not None and (
                is_other
                or self.begins_task
                or not is_for(
                    fetched,
                    parts.depth,
                    parts.interval,
                    parts.runner.draws,
                    importance=self._settings.importance,
                )
            ):
                self.earlier = uncounted(saved)
                saved = {**saved, "fetched": None}
        parts.buffer.deny(self._denied)
        running = self._put_to_work(parts)
        if self.task is not None:
            running.tell(self.task)
        if saved:
            with naming_damage():
                running.load_state_dict(saved, begins_task=self.begins_task)
            self.saved = None
        return running

    def finish(self) -> None:
        """Tell the other ranks that this one ends before its first minibatch."""
        if self._peers is not None:
            greet_finished(self._peers)

    def _put_to_work(self, parts: Parts) -> Running:
        settings, id_field = self._settings, self._settings.id_field
        output: Output
        there = None
        if parts.outlet is not None:
            there = DeviceIntake(parts.outlet.side, self._intake, parts.buffer, parts.max_rows)
            output = DeviceExtension(parts.outlet, there, parts.spec, parts.max_rows, parts.exemplars, id_field)
        else:
            output = Extension(parts.spec, parts.max_rows, parts.exemplars, parts.runner.blocks, id_field)
        if settings.stratum == LABEL:
            self._intake.labelled = parts.buffer.columns
        if self.recorder is not None:
            self._begin_ledger(self.recorder, parts)
        rounds = Pipeline(parts, self._peers, settings)
        feedback = None
        if (observing := parts.runner.observing) is not None:
            from drb.rehearsal.feedback import FeedbackIntake  # seldom needed

            feedback = FeedbackIntake(
                observing.most_rows,
                settings.learner,
                needs_correct=observing.needs_correct,
                device=None if parts.outlet is None else parts.outlet.side.device,
            )
        steps = Steps(
            parts,
            self._intake,
            rounds,
            output,
            settings,
            there=there,
            returns_home=not self._is_device_given,
            feedback=feedback,
        )
        return Running(parts, self._intake, steps, rounds, self._peers, settings, self.earlier)

    def _begin_ledger(self, recorder: Recorder, parts: Parts) -> None:
        """Let the recorder know what draws depend on, and have it told what happens."""
        from drb.rehearsal.ledger.recorder import Rules  # seldom needed

        settings = self._settings
        rules = Rules(
            run=parts.origin.run,
            rank=self._rank,
            world_size=self._world_size,
            capacity=parts.buffer.capacity,
            seed=settings.seed,
            depth=parts.depth,
            interval=parts.interval,
            draws=parts.runner.draws,
            min_fill=settings.min_fill,
            proportions=identity(settings.shares),
            by_stratum=settings.shares.needs_strata,
        )
        recorder.begin(rules, parts.buffer.rows)
        self._intake.recorder = parts.runner.recorder = recorder
