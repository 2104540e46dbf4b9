"""Streams and events of a simulated GPU: work that is queued runs when somebody waits for it, or at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rehearsal.cuda.simulated import SimulatedGpu


@dataclass
class SimulatedEvent:
    gpu: SimulatedGpu
    stream: SimulatedStream | None = None
    position: int = 0
    clock: Counter[str] = field(default_factory=Counter)

    def record(self, stream: SimulatedStream) -> None:
        with self.gpu.lock:
            self.gpu.count("record")
            self.stream, self.position, self.clock = stream, len(stream.work), Counter(stream.clock_now())

    def synchronize(self) -> None:
        if self.gpu.is_left_out("synchronize"):
            return
        with self.gpu.lock:
            self.gpu.waited_on.add(self.gpu.name_of_host())
            if self.stream is not None:
                self.stream.run_to(self.position)
                self.gpu.host_learns(self.clock)


class SimulatedStream:
    def __init__(self, gpu: SimulatedGpu, name: str) -> None:
        self.gpu, self.name = gpu, name
        self.work: list[Callable[[], None]] = []
        self.done = 0
        self.clock: Counter[str] = Counter()

    def wait_event(self, event: SimulatedEvent) -> None:
        if self.gpu.is_left_out("wait_event"):
            return
        with self.gpu.lock:
            stream, position = event.stream, event.position
            if stream is not None:
                self.clock = self.gpu.later(self.clock, event.clock)
                self.queue(lambda: stream.run_to(position))

    def clock_now(self) -> Counter[str]:
        """What comes before the next thing that is queued."""
        return self.gpu.later(self.clock, self.gpu.clock_of_host())

    def queue(self, call: Callable[[], None]) -> None:
        self.work.append(call)
        if self.gpu.is_early:
            self.run_to(len(self.work))

    def run_to(self, position: int) -> None:
        while self.done < position:
            call = self.work[self.done]
            self.done += 1
            call()
