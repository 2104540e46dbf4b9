"""A GPU on the CPU, as unkind as a real one may be, and a judge of who touches which memory when.

Work on a stream runs when somebody waits for it on the host and not before ("late"), or as soon as it is queued
("early"): both are what a GPU may do. Whatever runs between is judged by the clocks of streams and threads: two
accesses to the same memory, one of them a write, that no event puts in order are a `RaceError`, however they happened
to run.

Memory is told by address. What the host does to tensors is told by `host_reads` and `host_writes`.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from rehearsal.cuda.gloo_rows import GlooRows
from rehearsal.cuda.races import Judge, extent
from rehearsal.cuda.simulated_ipc import SimulatedIpc
from rehearsal.cuda.streams import SimulatedEvent, SimulatedStream
from torch import Tensor

from drb.buffer.field import Field
from drb.exchange import Peers

HOST = "host"
_MOST_INDICES = 4096


class SimulatedGpu:
    """A device on which memory is never what it was by chance.

    leave_out: ("synchronize" | "wait_event", n): the nth call of this kind does nothing, a bug put in on purpose.
    maps: whether it reads and writes memory of the host's.
    """

    def __init__(self, *, is_early: bool = False, leave_out: tuple[str, int] | None = None, maps: bool = True) -> None:
        self.device, self.identity = torch.device("cpu"), "simulated"
        self.maps = maps
        self._pinned: set[int] = set()  # addresses of page-locked memory
        self._indices: list[tuple[Tensor, Tensor]] = []  # small integers on the device, and what they will be
        self.is_early = is_early
        self.lock = threading.RLock()
        self.calls: Counter[str] = Counter()
        self.free = 1 << 40
        self.shared: list[SimulatedIpc] = []
        self.copies: Counter[str] = Counter()  # by where from and where to, such as "pinned to device"
        self.waited_on: set[str] = set()  # the threads that waited for an event
        self._leave_out = leave_out
        self._names = threading.local()
        self._clocks: dict[str, Counter[str]] = {}
        self._judge = Judge()
        self._here: set[int] = set()  # addresses of memory on the device
        self._kept: list[Tensor] = []  # so that no address is used twice
        self._streams = [SimulatedStream(self, "current")]

    # -- what drb asks of a device

    def owns(self, value: Tensor) -> bool:
        return value.untyped_storage().data_ptr() in self._here

    def free_bytes(self) -> int:
        return self.free

    def current(self) -> SimulatedStream:
        return getattr(self._names, "stream", self._streams[0])

    @contextlib.contextmanager
    def on(self, stream: SimulatedStream) -> Iterator[None]:
        before, self._names.stream = self.current(), stream
        try:
            yield
        finally:
            self._names.stream = before

    def side_stream(self) -> SimulatedStream:
        self._streams.append(SimulatedStream(self, f"side {len(self._streams)}"))
        return self._streams[-1]

    def event(self) -> SimulatedEvent:
        return SimulatedEvent(self)

    def empty(self, shape: Sequence[int], dtype: torch.dtype, used_on: Sequence[Any] = ()) -> Tensor:
        with self.lock:
            memory = self._garbage(shape, dtype)
            self._here.add(memory.untyped_storage().data_ptr())
            return memory

    def empty_pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        with self.lock:
            memory = self._garbage(shape, dtype)
            self._pinned.add(memory.untyped_storage().data_ptr())
            return memory

    def map_host(self, rows: Any) -> Tensor | None:
        """Host memory that counts as the device's, too, if this GPU can do that."""
        if not self.maps or not rows.size:
            return None
        with self.lock:
            mapped = torch.from_numpy(rows)
            self._kept.append(mapped)
            self._here.add(mapped.untyped_storage().data_ptr())
            return mapped

    def copy(self, target: Tensor, source: Tensor) -> None:
        assert self.owns(target) or self.owns(source), "a copy within the host"
        assert target.shape == source.shape
        self.copies[f"{self._place(source)} to {self._place(target)}"] += 1
        if not self.owns(source) and not self.is_pinned(source):
            source = self._snapshot(source)  # read at once
        if source.dtype == torch.int64 and source.numel() <= _MOST_INDICES and not self.owns(source):
            with self.lock:
                self._indices = [(t, v) for t, v in self._indices if t.data_ptr() != target.data_ptr()]
                self._indices.append((target, source.clone()))
        self.run(self.current(), "copy", [source], [target], lambda: target.copy_(source))

    def copy_all(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        assert all(self.owns(value) for value in (*targets, *sources)), "host memory in a device's operation"
        assert {value.dtype for value in (*targets, *sources)} == {sources[0].dtype}
        assert [target.shape for target in targets] == [source.shape for source in sources]

        def copy_each() -> None:
            values = [source.clone() for source in sources]  # as if all at once: none may read what another writes
            for target, value in zip(targets, values, strict=True):
                target.copy_(value)

        self._refuse_overlap(targets, sources)
        self.run(self.current(), "copies", sources, targets, copy_each)

    def gather(self, source: Tensor, index: Tensor, out: Tensor) -> None:
        assert all(map(self.owns, (source, index, out)))
        assert (source.shape[1:], source.dtype) == (out.shape[1:], out.dtype)
        chosen = self._rows_of(source, index)
        self.run(
            self.current(), "gather", [index, *chosen], [out], lambda: torch.index_select(source, 0, index, out=out)
        )

    def encode(self, field: Field, values: Tensor, out: Tensor) -> None:
        assert self.owns(values)
        assert self.owns(out)
        self.run(self.current(), "encode", [values], [out], lambda: out.copy_(field.encode(values)))

    def decode(self, field: Field, stored: Tensor, out: Tensor) -> None:
        assert self.owns(stored)
        assert self.owns(out)
        self.run(self.current(), "decode", [stored], [out], lambda: field.decode(stored, out))

    def zero(self, target: Tensor) -> None:
        assert self.owns(target)
        self.run(self.current(), "zero", [], [target], target.zero_)

    def scatter(self, target: Tensor, source: Tensor, where: Tensor) -> None:
        assert all(map(self.owns, (target, source, where)))
        chosen = self._rows_of(target, where)
        self.run(self.current(), "scatter", [source, where], chosen, lambda: target.index_copy_(0, where, source))

    def open_rows(self, peers: Peers) -> GlooRows:
        return GlooRows(self, peers.new_group("gloo"))

    def ipc(self) -> SimulatedIpc:
        self.shared.append(SimulatedIpc(self))
        return self.shared[-1]

    # -- what tests ask of it

    def is_pinned(self, value: Tensor) -> bool:
        """Whether the memory is page-locked: then copies read or write it when their stream comes to them."""
        return value.untyped_storage().data_ptr() in self._pinned

    def put(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fields on the device, as a user's loader would bring them there."""
        moved = {}
        for name, value in values.items():
            moved[name] = self.empty(value.shape, value.dtype)
            self.copy(moved[name], value)
        return moved

    def get(self, value: Tensor) -> Tensor:
        """What the current stream would see of a device's tensor."""
        pinned = self.empty_pinned(value.shape, value.dtype)
        self.copy(pinned, value)
        done = SimulatedEvent(self)
        done.record(self.current())
        with self.lock:
            self.current().run_to(done.position)
        return pinned.clone()

    def run(
        self,
        stream: SimulatedStream,
        what: str,
        reads: Sequence[Tensor],
        writes: Sequence[Tensor],
        call: Callable[[], Any],
    ) -> None:
        """Queue an operation that reads and writes these."""
        with self.lock:
            stream.clock = stream.clock_now()
            stream.clock[stream.name] += 1
            self._judge.judge(stream.name, stream.clock, what, reads, writes)
            stream.queue(lambda: self._run(call))

    def host_reads(self, *values: Tensor) -> None:
        self._host_accesses("read by the host", values, ())

    def host_writes(self, *values: Tensor) -> None:
        self._host_accesses("written by the host", (), values)

    @contextlib.contextmanager
    def thread(self, name: str) -> Iterator[None]:
        """What happens here happens on a thread of this name, which knows nothing of the others' waits."""
        before, self._names.value = self.name_of_host(), name
        try:
            yield
        finally:
            self._names.value = before

    def hand_over(self, giver: str, taker: str) -> None:
        """By a queue between threads: the taker knows what the giver knew."""
        clocks = self._clocks
        clocks[taker] = self.later(clocks.get(taker, Counter()), clocks.get(giver, Counter()))

    def clock_of_host(self) -> Counter[str]:
        return self._clocks.setdefault(self.name_of_host(), Counter())

    def host_learns(self, clock: Counter[str]) -> None:
        self._clocks[self.name_of_host()] = self.later(self.clock_of_host(), clock)

    def name_of_host(self) -> str:
        return getattr(self._names, "value", HOST)

    @staticmethod
    def later(a: Counter[str], b: Counter[str]) -> Counter[str]:
        return a | b  # the larger of each

    def count(self, kind: str) -> int:
        self.calls[kind] += 1
        return self.calls[kind]

    def is_left_out(self, kind: str) -> bool:
        with self.lock:
            return self._leave_out == (kind, self.count(kind) - 1)

    def _place(self, value: Tensor) -> str:
        return "device" if self.owns(value) else "pinned" if self.is_pinned(value) else "pageable"

    def _snapshot(self, value: Tensor) -> Tensor:
        self.host_reads(value)
        with self.lock:
            self._kept.append(value.clone())
            return self._kept[-1]

    def _rows_of(self, matrix: Tensor, index: Tensor) -> list[Tensor]:
        """What an index chooses, as the judge is told: what it will be when its copy is done is known already."""
        with self.lock:
            start, end = extent(index)
            for target, values in reversed(self._indices):
                first, last = extent(target)
                if first <= start and end <= last:
                    rows = values.flatten()[(start - first) // 8 :][: len(index)].tolist()
                    return [matrix[row : row + 1] for row in rows]
            raise AssertionError("an index that was never copied to the device")

    def _refuse_overlap(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        for target in targets:
            for source in (*sources, *(other for other in targets if other is not target)):
                if target.numel() and source.numel():
                    (start, end), (first, last) = extent(target), extent(source)
                    assert end <= first or last <= start, "one of these copies reads what another writes"

    def adopt(self, memory: Tensor) -> Tensor:
        """Memory that counts as the device's from now on."""
        with self.lock:
            self._here.add(memory.untyped_storage().data_ptr())
            self._kept.append(memory)
            return memory

    def _garbage(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = math.prod(shape)
        memory = torch.empty(count + 1, dtype=dtype)  # so that what is empty has an address, too
        memory.view(torch.uint8).fill_(0xA5)
        self._kept.append(memory)
        return memory[:count].view(*shape)

    def _run(self, call: Callable[[], Any]) -> None:
        with torch.no_grad():
            call()

    def _host_accesses(self, what: str, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
        with self.lock:
            name, clock = self.name_of_host(), self.clock_of_host()
            clock[name] += 1
            self._judge.judge(name, clock, what, reads, writes)
