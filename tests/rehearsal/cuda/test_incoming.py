"""Minibatches on their way from a device: right whatever the device does first, and a removed wait is found."""

from __future__ import annotations

import pytest
import torch
from rehearsal.cuda.races import RaceError
from rehearsal.cuda.simulated import SimulatedGpu

from drb.rehearsal.cuda import Incoming

pytestmark = pytest.mark.parametrize("is_early", [False, True], ids=["late", "early"])


def minibatch(step, rows=5):
    """On the host: values that tell the step."""
    return {
        "image": torch.full((rows, 2, 3), step, dtype=torch.uint8),
        "scale": torch.full((rows,), step + 0.5, dtype=torch.bfloat16),
        "sample_id": torch.arange(rows) + 100 * step,
    }


def bring(gpu, steps=6):
    """A loop whose memory on the device is the same in every step; what arrived of each."""
    incoming, arrived = Incoming(gpu, max_rows=5), []
    memory = gpu.put(minibatch(0))
    for step in range(steps):
        rows = 5 if step % 3 else 2
        for name, value in minibatch(step).items():  # written again as soon as the caller's own stream may
            gpu.copy(memory[name], gpu.empty_pinned(value.shape, value.dtype).copy_(value))
        if incoming.is_pending:
            finish(gpu, incoming, arrived)
        incoming.begin({name: value[:rows] for name, value in memory.items()})
    finish(gpu, incoming, arrived)
    return arrived


def finish(gpu, incoming, arrived):
    values = incoming.finish()
    gpu.host_reads(*values.values())
    arrived.append({name: value.clone() for name, value in values.items()})


def test_what_arrives_is_what_was_given(is_early):
    for step, values in enumerate(bring(SimulatedGpu(is_early=is_early))):
        for name, expected in minibatch(step, 5 if step % 3 else 2).items():
            assert values[name].equal(expected), (step, name)


def test_begin_waits_for_nothing(is_early):
    gpu = SimulatedGpu(is_early=is_early)
    incoming = Incoming(gpu, max_rows=5)
    incoming.begin(gpu.put(minibatch(1)))
    assert gpu.calls["synchronize"] == 0
    incoming.finish()
    assert gpu.calls["synchronize"] == 1


def test_host_fields_are_copied_at_once(is_early):
    gpu = SimulatedGpu(is_early=is_early)
    fields = minibatch(3)
    ids = fields.pop("sample_id")
    incoming = Incoming(gpu, max_rows=5)
    incoming.begin({**gpu.put(fields), "sample_id": ids})
    ids.zero_()  # the caller's again
    arrived = incoming.finish()
    assert arrived["sample_id"].equal(minibatch(3)["sample_id"])
    assert arrived["image"].equal(minibatch(3)["image"])


def test_memory_is_allocated_once(is_early):
    gpu = SimulatedGpu(is_early=is_early)
    incoming, addresses = Incoming(gpu, max_rows=5), set()
    for step in range(4):
        incoming.begin(gpu.put(minibatch(step)))
        addresses.add(incoming.finish()["image"].data_ptr())
    assert len(addresses) == 1


def test_erase_leaves_no_value(is_early):
    gpu = SimulatedGpu(is_early=is_early)
    incoming = Incoming(gpu, max_rows=5)
    incoming.begin(gpu.put(minibatch(9)))
    arrived = incoming.finish()
    incoming.erase()
    assert not any(value.any() for value in arrived.values())


@pytest.mark.parametrize("kind", ["synchronize", "wait_event"])
@pytest.mark.parametrize("number", range(4))
def test_every_wait_is_needed(is_early, kind, number):
    with pytest.raises(RaceError):
        bring(SimulatedGpu(is_early=is_early, leave_out=(kind, number)))
