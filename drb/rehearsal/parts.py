"""What a rehearsal is made of, once the first minibatch has shown what a record is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drb.buffer.editing import EditableBuffer
from drb.buffer.record import RecordSpec
from drb.buffer.storage.device import HEADER_BYTES
from drb.exchange import Exchange
from drb.machine import format_bytes
from drb.rehearsal.auto_exemplars import AutoExemplars
from drb.rehearsal.cuda import DeviceRing, RowLauncher
from drb.rehearsal.engine import Engine
from drb.rehearsal.exemplars import ACTIVE, RoundResult
from drb.rehearsal.intake import Offered
from drb.rehearsal.memory import decision_bytes, memory_bytes
from drb.rehearsal.round import RoundRunner
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.origin import Origin
from drb.sampling.proportions import Proportions
from drb.types import Int64Array
from drb.variant import name_of

if TYPE_CHECKING:
    from drb.checkpoint.lock import RunLock
    from drb.rehearsal.auto_accuracy import AutoAccuracy  # seldom needed
    from drb.rehearsal.prefilled import Prefilled  # seldom needed


@dataclass(frozen=True)
class Parts:
    """A rehearsal's parts.

    capacities: int64 [W]. max_rows: of a minibatch, on this rank. exemplars: the most of a step.
    depth: rounds in flight. interval: steps per round. why: the choices that were made, and their reasons.
    counts_offers: whether distinct offers are counted. outlet: the delivery to a device, if exemplars are wanted there.
    origin: of the states that are saved. auto: chooses how many exemplars are drawn, if the settings do not say.
    prefilled: samples on disk that are drawn, too. proportions: with what they have learnt.
    folder: where the buffer lies in a file, if it does; a node's first rank has its lock.
    """

    spec: RecordSpec
    buffer: EditableBuffer
    exchange: Exchange
    runner: RoundRunner
    engine: Engine[RoundResult]
    proportions: Proportions
    capacities: Int64Array
    max_rows: int
    exemplars: int
    depth: int
    interval: int
    why: str
    counts_offers: bool = False
    outlet: DeviceRing | RowLauncher | None = None
    auto: AutoExemplars | AutoAccuracy | None = None
    origin: Origin = field(default_factory=Origin)
    prefilled: Prefilled | None = None
    folder: str | None = None
    folder_lock: RunLock | None = None

    def close(self, together: bool) -> None:
        """Let go of the rows. together: every rank is closing now."""
        self.exchange.close(together)
        if self.folder_lock is not None:
            self.folder_lock.release()

    def run_round(self, step: int) -> RoundResult:
        """A round by itself, here and now, of what the buffer holds: to measure it. Collective."""
        result = self.runner.run(step, ACTIVE, Offered(), self.buffer.hand_in())
        self.buffer.release()
        return result

    @property
    def is_async(self) -> bool:
        """Whether rounds run on a thread of their own."""
        return self.engine.is_async

    def describe(self, settings: RehearsalSettings) -> str:
        """One paragraph: what was chosen, and the memory it takes on this rank."""
        memory = self.memory_bytes()
        amounts = ", ".join(f"{name} {format_bytes(amount)}" for name, amount in memory.items())
        kinds = f"{name_of(settings.policy)}, {name_of(settings.shares)}"
        mapped = "" if self.prefilled is None else f", and {self.prefilled.size} mapped from {self.prefilled.folder}"
        retention = f"{settings.retention}; " if settings.retention else ""
        return (
            f"rehearsal: {self._amount(settings)} exemplars per rank and step from buffers of {self.buffer.capacity} "
            f"per rank, {int(self.capacities.sum())} in total{mapped} ({kinds}); "
            f"{self._codecs()}{retention}{self.why}; "
            f"memory per rank at most {format_bytes(sum(memory.values()))} ({amounts})"
            + ("" if self.outlet is None else f", of {self.outlet.device.device} {format_bytes(self.device_bytes())}")
            + ("" if self.folder is None else f", of the disk of {self.folder} {format_bytes(self.buffer.rows.nbytes)}")
        )

    def _codecs(self) -> str:
        """How many bytes fields with a codec take, and would take without it."""
        fields = [(name, self.spec.fields[name]) for name in self.spec.encoded]
        return "".join(f"{name} in {f.stored_bytes} of {f.size_bytes} bytes by {f.codec}; " for name, f in fields)

    def _amount(self, settings: RehearsalSettings) -> str:
        if self.auto is None:
            return str(settings.exemplars) if settings.draws == 1 else f"{settings.draws} draws of {settings.exemplars}"
        return str(self.auto)

    def memory_bytes(self) -> dict[str, int]:
        """Bytes that this rank holds at most, by purpose."""
        return memory_bytes(
            self.spec.row_bytes,
            self.buffer.capacity,
            self.max_rows,
            self.exemplars,
            self.exchange.staging_bytes,
            self.depth,
            self.interval,
            counts_offers=self.counts_offers,
            decoded_bytes=self.spec.decoded_bytes,
            decision_bytes=decision_bytes(self.buffer.admission, self.spec, self.buffer.capacity, self.max_rows),
            stored_bytes=self._stored_bytes,
        )

    @property
    def _stored_bytes(self) -> int | None:
        """Bytes of host memory for each record of the buffer; None: those of a row."""
        if self.folder is not None:
            return 0
        return HEADER_BYTES if self.outlet is not None and self.outlet.side.rows is not None else None

    def device_bytes(self) -> int:
        """Bytes that this rank takes of its device at most."""
        if self.outlet is None:
            return 0
        snapshots = (self.outlet.side.places + 1) * self.max_rows  # and what admitted rows pass through
        returned = 2 * (self.max_rows + self.exemplars)
        side = self.outlet.side
        passing = (snapshots + returned) * self.spec.decoded_bytes + side.index_bytes
        return self.outlet.device_bytes + passing + side.stored_bytes
