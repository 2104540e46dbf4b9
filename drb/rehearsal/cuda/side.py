"""What a rehearsal has on one device: a stream of its own, the buffer's rows as the device sees them, a landing."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from drb.buffer.record import RecordSpec
from drb.buffer.storage.device import DeviceRows
from drb.exchange import Exchange
from drb.rehearsal.cuda.device import Device
from drb.rehearsal.cuda.landing import Landing
from drb.rehearsal.cuda.lanes import lanes_of_blocks, lanes_of_values
from drb.types import Int64Array

if TYPE_CHECKING:  # loaded once it is needed
    from drb.rehearsal.cuda.device_exchange import DeviceExchange


class DeviceSide:
    """max_rows: of a minibatch. places: how many minibatches may be on their way from the device into rows.

    has_peers: other ranks read this rank's rows. in_files: rows lie in a file, which no GPU may lock in memory.
    by_host: the fields that the host writes into rows, because it encodes them or counts their columns.
    lanes: of the others, as they are given.
    block_lanes: of all that is fetched of a record.
    counted_by: the field by which exemplars are counted, if the host, which knows its values, writes it into rows and
    reads it there: one int64, in rows on the host.
    rows: the buffer's, if they lie on this device.
    shared: the exchange, if those of the other ranks lie on devices, too.
    reachable: all rows that the exchange reads from memory, int64 [*, K], as the device reads them; None if it may not,
    or the exchange reads them otherwise.
    """

    def __init__(
        self,
        device: Device,
        spec: RecordSpec,
        exchange: Exchange,
        max_rows: int,
        places: int,
        *,
        has_peers: bool,
        counted_by: str | None = None,
        in_files: bool = False,
    ) -> None:
        self.device = device
        self.spec = spec
        self.rows = exchange.rows if isinstance(exchange.rows, DeviceRows) else None
        self.shared = cast("DeviceExchange", exchange) if hasattr(exchange, "peer_rows") else None
        self.stream = device.side_stream() if self.rows is None else self.rows.stream
        self.by_host = fields_of_host(spec)
        self.counted_by = None
        if self.rows is None and counted_by in spec.integers and counted_by not in spec.encoded:
            self.counted_by = counted_by if spec.fields[counted_by].dtype == torch.int64 else None
        self.lanes = {name: lane for name, lane in lanes_of_values(spec).items() if name not in self.by_host}
        self.block_lanes = lanes_of_blocks(spec)
        self.places = places
        self._max_rows = max_rows
        self.has_peers = has_peers
        direct = exchange.direct
        self.reachable: Tensor | None = None
        self._own_rows: Tensor | None
        if self.rows is not None:
            self._own_rows = self.rows.there
            self.reachable = self._own_rows if self.shared is None else self.shared.peer_rows.window
        elif direct is None or (reachable := device.map_host(direct.reachable)) is None:
            self._own_rows = None if in_files else device.map_host(exchange.rows)
        else:
            self.reachable = reachable
            first = (exchange.rows.ctypes.data - direct.reachable.ctypes.data) // spec.row_bytes
            self._own_rows = self.reachable[first : first + len(exchange.rows)]
        self.landing = Landing(device, spec, self.lanes, exchange.rows, self._own_rows, max_rows, self.stream, places)

    def land(self) -> None:
        """Write what was admitted, and return once that is done if peers are told of it, or this host reads it."""
        self.landing.land(wait=self.has_peers or not self.is_direct)

    def locate(self, owners: Int64Array, rows: Int64Array) -> Int64Array:
        """Where `reachable` has rows of `owners`, which the exchange has located: int64 [r] each."""
        return rows if self.shared is None else self.shared.peer_rows.index(owners, rows)

    def describe(self) -> str:
        """How rows come to the device."""
        if self.shared is not None:
            return f"the buffer's rows lie on {self.device.device}, where the node's ranks read them"
        if self.rows is not None:
            return f"the buffer's rows lie on {self.device.device}"
        if self.is_direct:
            return f"{self.device.device} reads and writes the buffer's rows itself"
        return f"exemplars go to {self.device.device}" + (
            "" if self.is_mapped else " (this host's memory is not mapped)"
        )

    @property
    def index_bytes(self) -> int:
        """Bytes of the device's memory for which rows are admitted, for ids and strata, and for what is encoded."""
        return 16 * self._max_rows * (self.places + 1) + self.landing.encoded_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of the device's memory in which the buffer's rows lie, 0 if they are on the host."""
        return 0 if self.rows is None else self.rows.device_bytes

    @property
    def is_direct(self) -> bool:
        """Whether the device gathers straight from the rows, so that a round moves none on the host."""
        return self.reachable is not None

    @property
    def is_mapped(self) -> bool:
        """Whether the device writes admitted samples into the rows itself."""
        return self._own_rows is not None


def fields_of_host(spec: RecordSpec) -> tuple[str, ...]:
    """The fields that only a host writes into rows, because it encodes them or counts their columns."""
    codecs = {name: spec.fields[name].codec for name in spec.encoded}
    encoded = [name for name, codec in codecs.items() if codec is not None and not codec.encodes_anywhere]
    return (*encoded, *spec.counted)
