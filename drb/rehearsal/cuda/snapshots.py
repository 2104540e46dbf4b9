"""Memory on the device for minibatches that were given, and copies within the device that are queued together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drb.rehearsal.cuda.device import Device
from drb.rehearsal.cuda.landing import Admitted
from drb.rehearsal.cuda.lanes import Lane
from drb.rehearsal.cuda.side import DeviceSide
from drb.types import Int64Array


@dataclass
class Copies:
    """Copies within the device that are queued together: by the dtype of words, targets and sources [*, n] each."""

    pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = field(default_factory=dict)

    def add(self, target: Tensor, source: Tensor) -> None:
        """target[...] = source, of the same shape and dtype."""
        targets, sources = self.pairs.setdefault(source.dtype, ([], []))
        targets.append(target)
        sources.append(source)

    def add_all(self, others: Copies) -> None:
        """All that these do, too."""
        for dtype, (other_targets, other_sources) in others.pairs.items():
            targets, sources = self.pairs.setdefault(dtype, ([], []))
            targets += other_targets
            sources += other_sources

    def run(self, device: Device) -> None:
        """Queue them, and forget them."""
        for targets, sources in self.pairs.values():
            device.copy_all(targets, sources)
        self.pairs.clear()


class Snapshots:
    """Memory for so many minibatches on the device, used in turn; max_rows of every field.

    given, read: of each place, the events that its contents are complete, and that nothing reads them any more.
    """

    def __init__(self, side: DeviceSide, lanes: Mapping[str, Lane], max_rows: int) -> None:
        self._device, self._landing, device = side.device, side.landing, side.device
        self._fields = [
            {
                name: device.empty((max_rows, *lane.shape), lane.value_dtype, [side.stream])
                for name, lane in lanes.items()
            }
            for _ in range(side.places)
        ]
        self.given, self.read = ([device.event() for _ in range(side.places)] for _ in range(2))
        self._lanes = lanes
        # made once: slicing takes longer than copying
        self._views: dict[tuple[int, int], dict[str, tuple[Tensor, Tensor]]] = {}
        self._admitted: list[Admitted | None] = [None] * side.places  # what reads each place
        self.place = 0

    def next(self) -> None:
        """Go on to the next place; what is queued on the current stream from now on may write there."""
        self.place = (self.place + 1) % len(self.given)
        reader = self._admitted[self.place]
        if reader is not None:
            self._admitted[self.place] = None
            if not reader.has_landed:  # late fields were given many times
                self._landing.land(wait=False)
            self._device.current().wait_event(self.read[self.place])

    def views(self, rows: int) -> dict[str, tuple[Tensor, Tensor]]:
        """This place's memory for each field, [rows, …], and the same as words, [rows, n]."""
        key = (self.place, rows)
        if key not in self._views:
            values = {name: memory[:rows] for name, memory in self._fields[self.place].items()}
            self._views[key] = {name: (value, self._lanes[name].of_values(value)) for name, value in values.items()}
        return self._views[key]

    def admitted(self, selected: Int64Array, where: Int64Array) -> Admitted:
        """What is to be read of this place."""
        reader = Admitted(selected, where, self.given[self.place], self.read[self.place])
        self._admitted[self.place] = reader
        return reader

    def erase(self) -> None:
        """Zero all of them, on the current stream."""
        for place, fields in enumerate(self._fields):
            self._device.current().wait_event(self.read[place])
            for value in fields.values():
                self._device.zero(value)
