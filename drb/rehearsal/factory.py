"""Building the single parts of a rehearsal: the seam at which a subclass puts others in their place."""

from __future__ import annotations

from collections.abc import Sequence

from drb.buffer.editing import EditableBuffer
from drb.buffer.expiry import Expiry, MaxAge
from drb.buffer.record import RecordSpec
from drb.exchange import Exchange, Peers, Sizes, Transport
from drb.exchange.loopback import Loopback
from drb.machine import node_name
from drb.rehearsal.cuda import DeviceRing, DeviceSide, NcclExchange, RowLauncher
from drb.rehearsal.delivery import Delivery, deliver_on_host
from drb.rehearsal.memory import free_memory
from drb.rehearsal.settings import RehearsalSettings
from drb.sampling.proportions import Proportions
from drb.sampling.sampler import Sampler
from drb.types import Int64Array


class Factory:
    """Builds the parts as the settings say. `Rehearsal` has one; a test's subclass of it may have another."""

    def node(self) -> str:
        """The name of this rank's node: ranks of one node share memory."""
        return node_name()

    def free_memory(self) -> dict[str, int]:
        """See `drb.rehearsal.memory.free_memory`."""
        return free_memory()

    def exchange(self, transport: Transport, peers: Peers | None, nodes: Sequence[str], sizes: Sizes) -> Exchange:
        """The exchange of this transport. Collective over peers (None: one rank)."""
        return Loopback().open(None, nodes, sizes) if peers is None else transport.open(peers, nodes, sizes)

    def buffer(
        self, settings: RehearsalSettings, spec: RecordSpec, capacity: int, rows: Int64Array, rank: int
    ) -> EditableBuffer:
        """This rank's buffer, whose records lie in `rows`."""
        admission = settings.new_admission(rank)
        expiry = None if settings.max_age is None else Expiry(MaxAge.parse(settings.max_age))
        return EditableBuffer(spec, capacity, rows, admission, expiry=expiry)

    def sampler(self, settings: RehearsalSettings, exemplars: int, proportions: Proportions, rank: int) -> Sampler:
        """What draws this rank's exemplars."""
        return Sampler(exemplars, proportions, seed=settings.seed, rank=rank, min_fill=settings.min_fill)

    def delivery(
        self, side: DeviceSide | None, exchange: Exchange, peers: Peers | None, blocks: Int64Array
    ) -> Delivery:
        """What takes fetched rows to the device; None: to the host."""
        if side is None:
            return deliver_on_host(exchange, blocks)
        if isinstance(exchange, NcclExchange) and peers is not None:
            return RowLauncher(side, exchange, side.device.open_rows(peers), blocks)
        return DeviceRing(side, exchange, blocks)
