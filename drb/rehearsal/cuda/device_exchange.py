"""Rows in the memory of the GPUs of one node: tables and headers in shared memory, as `shared` has them and rows.

What a host needs to know of a row (its sample id, stratum, round and slot) lies in the node's shared segment, in the
order of all ranks' rows; the row itself has the same number in `PeerRows`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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
        num_events, require_life = sizes.num_blocks + 1, self._counts.require_life
        self.peer_rows = PeerRows(device, peers, sizes.rows, sizes.words, num_events, stream, require_life)
        self.rows = DeviceRows(
            device, int(sizes.rows[peers.rank]), sizes.words, there=self.peer_rows.own, headers=self.rows, stream=stream
        )
        self._with_recorded: Int64Array = np.empty(0, np.int64)

    def gather_counts(self, message: Int64Array) -> Int64Array:
        if len(self._with_recorded) != len(message) + 1:
            self._with_recorded = np.empty(len(message) + 1, np.int64)
        self._with_recorded[:-1], self._with_recorded[-1] = message, self.peer_rows.recorded
        messages = super().gather_counts(self._with_recorded)
        self.announced: Int64Array = messages[:, -1]
        return messages[:, :-1]

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        raise AssertionError("rows that lie on devices are gathered there")

    def erase(self) -> None:
        self.rows.erase()

    def close(self, together: bool = False) -> None:
        """If not together, the others may go on reading this rank's rows: those stay until the process ends."""
        if together:
            self.peer_rows.close()
        super().close(together)
