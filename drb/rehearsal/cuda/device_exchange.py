"""Rows in the memory of the GPUs of one node: tables and headers in shared memory, as `shared` has them and rows.

What a host needs to know of a row (its sample id, stratum, round and slot) lies in the node's shared segment, in the
order of all ranks' rows; the row itself has the same number in `PeerRows`.
"""

from __future__ import annotations

from typing import Any

from drb.buffer.record import HEADER_WORDS
from drb.buffer.storage.device import DeviceRows
from drb.exchange import Peers, Sizes
from drb.exchange.shared import SharedExchange
from drb.rehearsal.cuda.device import Device
from drb.rehearsal.cuda.peer_rows import PeerRows
from drb.types import Int64Array


class DeviceExchange(SharedExchange):
    """The ranks of one node, whose rows lie on their devices. Collective.

    reachable: the headers of all rows, int64 [*, HEADER_WORDS]. peer_rows: all rows.
    """

    name = "device"
    rows: Any  # DeviceRows

    def __init__(self, peers: Peers, sizes: Sizes, device: Device) -> None:
        super().__init__(peers, sizes.rows, sizes.capacities, HEADER_WORDS)
        stream = device.side_stream()
        self.peer_rows = PeerRows(device, peers, sizes.rows, sizes.words, stream)
        self.rows = DeviceRows(
            device, int(sizes.rows[peers.rank]), sizes.words, there=self.peer_rows.own, headers=self.rows, stream=stream
        )

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        raise AssertionError("rows that lie on devices are gathered there")

    def erase(self) -> None:
        self.rows.erase()

    def close(self, together: bool = False) -> None:
        """If not together, the others may go on reading this rank's rows: those stay until the process ends."""
        if together:
            self.peer_rows.close()
        super().close(together)
