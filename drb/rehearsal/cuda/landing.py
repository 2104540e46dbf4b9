"""Admitted samples on their way from a device into the buffer's rows, off the training thread.

    training thread   snapshots of a minibatch, `given` … decide which are admitted … `give` them
    worker            before its round publishes: `land`
    side stream       wait for `given` → for each field: gather the admitted ones → scatter them into rows → `read`
    caller's stream   wait for `read` → the next snapshot in the same memory

The device writes into the host's rows itself, through memory that is page-locked and mapped: a row of 150 KB takes 3 µs
and no host thread touches it. Where the system does not allow that, a copy to page-locked memory comes between.

Letters: A admitted samples, B rows of a minibatch.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from drb.buffer.record import RecordSpec
from drb.rehearsal.cuda.device import Device, Event, Stream
from drb.rehearsal.cuda.lanes import Lane, lanes_of
from drb.types import Int64Array


@dataclass
class Admitted:
    """Rows `selected` of a snapshot belong into rows `where` of the buffer, int64 [A] each.

    words: of the snapshot's fields, [B, n] each.

    given: the snapshot is complete. read: nothing will read it any more; recorded once this `has_landed`.
    """

    selected: Int64Array
    where: Int64Array
    given: Event
    read: Event
    words: dict[str, Tensor] = field(default_factory=dict)
    has_landed: bool = False


class Landing:
    """Writes admitted samples into `rows`, int64 [num_rows, K] in host memory; mapped: the same rows on the device.

    `give` on the training thread, `land` on any. places: how many minibatches are on their way at most, as a rule.
    """

    def __init__(
        self,
        device: Device,
        spec: RecordSpec,
        lanes: dict[str, Lane],
        rows: Any,
        mapped: Tensor | None,
        max_rows: int,
        stream: Stream,
        places: int,
    ) -> None:
        self._device, self._spec, self._lanes = device, spec, lanes
        self._rows, self._stream = rows, stream
        stored = {name: lane for name, lane in lanes_of(spec).items() if name in lanes}
        self._targets = None if mapped is None else {name: lane.of_rows(mapped) for name, lane in stored.items()}
        self._through = {
            name: device.empty((max_rows, *lane.shape), lane.value_dtype, used_on=[stream])
            for name, lane in lanes.items()
        }
        self._encoded = {  # of fields with a codec, on their way into rows
            name: device.empty((max_rows, *lane.shape), lane.value_dtype, used_on=[stream])
            for name, lane in (stored if mapped is not None else {}).items()
            if spec.fields[name].codec is not None
        }
        self._encoded_words = {name: stored[name].of_values(value) for name, value in self._encoded.items()}
        self._staged = (
            {n: device.empty_pinned(tuple(v.shape), v.dtype) for n, v in self._through.items()}
            if mapped is None
            else {}
        )
        self._pinned_index = device.empty_pinned((places, 2, max_rows), torch.int64)
        self._index = self._pinned_index.numpy()
        self._index_there = device.empty((places, 2, max_rows), torch.int64, used_on=[stream])
        self._used = [device.event() for _ in range(places)]
        self._place = 0
        self._views: dict[tuple[int, int], tuple[Tensor, Tensor, dict[str, Tensor]]] = {}
        self._queue: deque[Admitted] = deque()
        self._is_landing = threading.Lock()
        self._landed = device.event()

    def give(self, admitted: Admitted) -> None:
        """The snapshot's `given` was recorded: the rows may be written any time from now on."""
        self._queue.append(admitted)

    def land(self, *, wait: bool) -> None:
        """Write all that was given. wait: until the host, too, sees it in the rows."""
        if self._queue:
            with self._is_landing, self._device.on(self._stream):
                while self._queue:
                    self._land(self._queue.popleft())
                self._landed.record(self._stream)
        if wait:
            self._landed.synchronize()

    def erase(self) -> None:
        """Zero what rows passed through. Nothing may be on its way."""
        assert not self._queue, "erase() before land()"
        for value in self._staged.values():
            value.zero_()
        with self._device.on(self._stream):
            for value in (*self._through.values(), *self._encoded.values()):
                self._device.zero(value)
            self._landed.record(self._stream)
        self._landed.synchronize()

    def _views_of(self, place: int, count: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Indices of so many rows, and what they pass through, as words: made once, since slicing takes long."""
        if (place, count) not in self._views:
            selected, where = self._index_there[place]
            through = {name: self._lanes[name].of_values(value[:count]) for name, value in self._through.items()}
            self._views[place, count] = (selected[:count], where[:count], through)
        return self._views[place, count]

    @property
    def encoded_bytes(self) -> int:
        """Bytes of the device's memory for fields that are encoded there."""
        return sum(value.nbytes for value in self._encoded.values())

    def _as_stored(self, name: str, words: Tensor) -> Tensor:
        """The words of values that are on their way, in the form in which they are stored."""
        if name not in self._encoded:
            return words
        count = len(words)
        self._device.encode(self._spec.fields[name], self._through[name][:count], self._encoded[name][:count])
        return self._encoded_words[name][:count]

    def _land(self, admitted: Admitted) -> None:
        device, count = self._device, len(admitted.where)
        self._place = (self._place + 1) % len(self._used)
        used = self._used[self._place]
        used.synchronize()
        self._index[self._place, 0, :count], self._index[self._place, 1, :count] = admitted.selected, admitted.where
        device.copy(self._index_there[self._place], self._pinned_index[self._place])
        selected, where, through = self._views_of(self._place, count)
        self._stream.wait_event(admitted.given)
        for name, words in admitted.words.items():
            device.gather(words, selected, through[name])
            if self._targets is not None:
                device.scatter(self._targets[name], self._as_stored(name, through[name]), where)
            else:
                device.copy(self._staged[name][:count], self._through[name][:count])
        admitted.read.record(self._stream)
        admitted.has_landed = True
        used.record(self._stream)
        if self._targets is None:
            used.synchronize()
            everything = torch.arange(count).numpy()
            for name in admitted.words:
                self._spec.pack(name, self._staged[name][:count], everything, self._rows, admitted.where)
