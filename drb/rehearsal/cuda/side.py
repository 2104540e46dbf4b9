"""What a rehearsal has on one device: a stream of its own, the buffer's rows as the device sees them, a landing."""

from __future__ import annotations

from drb.buffer.record import RecordSpec
from drb.exchange import Exchange
from drb.rehearsal.cuda.device import Device
from drb.rehearsal.cuda.landing import Landing
from drb.rehearsal.cuda.lanes import lanes_of, lanes_of_blocks


class DeviceSide:
    """max_rows: of a minibatch. places: how many minibatches may be on their way from the device into rows.

    has_peers: other ranks read this rank's rows.
    lanes: of the fields that the device writes into rows; the host encodes the others, and counts their columns.
    block_lanes: of all that is fetched of a record.
    reachable: all rows that the exchange reads from memory, int64 [*, K], as the device reads them; None if it may not,
    or the exchange reads them otherwise.
    """

    def __init__(
        self, device: Device, spec: RecordSpec, exchange: Exchange, max_rows: int, places: int, *, has_peers: bool
    ) -> None:
        self.device = device
        self.spec = spec
        self.stream = device.side_stream()
        by_host = {*spec.encoded, *spec.counted}
        self.lanes = {name: lane for name, lane in lanes_of(spec).items() if name not in by_host}
        self.block_lanes = lanes_of_blocks(spec)
        self.places = places
        self._max_rows = max_rows
        self.has_peers = has_peers
        direct = exchange.direct
        self.reachable = None if direct is None else device.map_host(direct.reachable)
        if self.reachable is None or direct is None:
            self._own_rows = device.map_host(exchange.rows)
        else:
            first = (exchange.rows.ctypes.data - direct.reachable.ctypes.data) // spec.row_bytes
            self._own_rows = self.reachable[first : first + len(exchange.rows)]
        self.landing = Landing(device, spec, self.lanes, exchange.rows, self._own_rows, max_rows, self.stream, places)

    def describe(self) -> str:
        """How rows come to the device."""
        if self.is_direct:
            return f"{self.device.device} reads and writes the buffer's rows itself"
        return f"exemplars go to {self.device.device}" + (
            "" if self.is_mapped else " (this host's memory is not mapped)"
        )

    @property
    def index_bytes(self) -> int:
        """Bytes of the device's memory for which rows are admitted, and for ids and strata."""
        return 16 * self._max_rows * (self.places + 1)

    @property
    def is_direct(self) -> bool:
        """Whether the device gathers straight from the rows, so that a round moves none on the host."""
        return self.reachable is not None

    @property
    def is_mapped(self) -> bool:
        """Whether the device writes admitted samples into the rows itself."""
        return self._own_rows is not None
