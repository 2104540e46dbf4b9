"""Fences: memory is written again only after its readers are done. Events are stand-ins that log what happens."""

from drb.rehearsal.delivery import ReuseFence


class Event:
    def __init__(self, log):
        self._log = log
        self._name = f"event {sum('made' in line for line in log)}"
        log.append(f"{self._name} made")

    def record(self):
        self._log.append(f"{self._name} recorded")

    def synchronize(self):
        self._log.append(f"{self._name} awaited")


def fence_with_log(num_slots):
    log = []
    return ReuseFence(num_slots, lambda: Event(log)), log


def test_a_slot_that_nobody_read_is_free():
    fence, log = fence_with_log(2)
    fence.wait(0)
    assert log == []


def test_a_slot_waits_for_its_own_readers():
    fence, log = fence_with_log(2)
    fence.mark(0)
    fence.mark(1)
    fence.wait(1)
    assert log == ["event 0 made", "event 0 recorded", "event 1 made", "event 1 recorded", "event 1 awaited"]


def test_events_are_made_once_and_recorded_anew():
    fence, log = fence_with_log(1)
    for _ in range(3):
        fence.mark(0)
        fence.wait(0)
    assert log == ["event 0 made"] + ["event 0 recorded", "event 0 awaited"] * 3


def test_without_cuda_there_is_nothing_to_wait_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    fence = ReuseFence(2)
    fence.mark(0)
    fence.wait(0)
