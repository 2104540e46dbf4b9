"""Minibatches and exemplars on a real GPU: equal to the host path while the GPU is busy, in every dtype.

python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

import gc
import hashlib
import threading

import numpy as np
import pytest
import torch
from rehearsal.ranks.streams import num_wrong, records

from drb import Rehearsal
from drb.buffer.codecs import Bits
from drb.buffer.record import Field, RecordSpec
from drb.rehearsal.cuda import CudaDevice, DeviceRing, DeviceSide, Incoming

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WORDS = 1 << 12  # copies that take a while


def keep_busy() -> None:
    """Some milliseconds of work on the current stream, which the host does not wait for."""
    torch.cuda._sleep(10_000_000)


def to_gpu(values):
    return {name: value.cuda() for name, value in values.items()}


def test_copies_to_the_host_wait_for_the_work_before_them_and_for_no_other():
    device = CudaDevice(torch.device("cuda"))
    incoming, memory = Incoming(device, max_rows=16), to_gpu(records(range(16), WORDS))
    for step in range(12):
        keep_busy()
        for name, value in to_gpu(records(range(step * 16, step * 16 + 16), WORDS)).items():
            memory[name].copy_(value)
        incoming.begin(memory)
        for value in memory.values():
            value.zero_()  # the caller's again
        arrived = incoming.finish()
        assert all(value.is_pinned() for value in arrived.values())
        assert num_wrong(arrived, WORDS) == 0
        assert arrived["sample_id"][0] == step * 16


def test_begin_returns_while_the_device_is_busy():
    device = CudaDevice(torch.device("cuda"))
    incoming, memory = Incoming(device, max_rows=16), to_gpu(records(range(16), WORDS))
    incoming.begin(memory)
    incoming.finish()  # memory is allocated by now
    torch.cuda._sleep(2_000_000_000)
    incoming.begin(memory)
    busy = not torch.cuda.current_stream().query()
    incoming.finish()
    assert busy, "begin() waited for the device"


class Rows:
    """An exchange of one rank whose row number n holds n."""

    def __init__(self, num_rows, spec, is_direct):
        self.rows = self.reachable = np.repeat(np.arange(num_rows)[:, None], spec.words, axis=1)
        self.direct = self if is_direct else None

    def locate(self, owners, positions):
        return positions

    def fetch(self, owners, positions, out):
        out[:] = self.rows[positions]


@pytest.mark.parametrize("is_direct", [True, False], ids=["mapped", "by messages"])
def test_blocks_are_read_as_they_were_fetched(is_direct):
    """A worker two rounds ahead, a training stream that is always behind."""
    device, depth, rows, read = CudaDevice(torch.device("cuda")), 2, 64, []
    spec = RecordSpec({"x": (torch.int64, (4096,))})
    exchange = Rows(41 * rows, spec, is_direct)
    side = DeviceSide(device, spec, exchange, max_rows=8, places=3, has_peers=False)
    assert side.is_mapped, "this machine does not map host memory: rows go by way of copies"
    blocks = torch.zeros((depth + 1, rows, spec.words), dtype=torch.int64, pin_memory=True).numpy()
    ring = DeviceRing(side, exchange, blocks)

    def fetch(number):
        ring.prepare()
        ring.fetch(np.zeros(rows, np.int64), np.arange(number * rows, (number + 1) * rows), number % (depth + 1))

    for step in range(40):
        ring.mark(step % (depth + 1))
        worker = threading.Thread(target=fetch, args=(step,))
        worker.start()
        worker.join()
        if step >= depth:
            block = (step - depth) % (depth + 1)
            ring.receive(block)
            keep_busy()
            read.append(ring.fields[block]["x"].clone())
    for number, values in enumerate(read):
        assert (values.cpu() == torch.arange(number * rows, (number + 1) * rows)[:, None]).all()
    ring.close(together=True)


def test_locked_memory_is_unlocked_with_its_last_view():
    device = CudaDevice(torch.device("cuda"))
    rows = np.zeros((1000, 300), np.int64)
    for number in range(3):  # memory that is still locked cannot be locked again
        mapped = device.map_host(rows)
        assert mapped is not None
        mapped.fill_(number + 1)
        torch.cuda.synchronize()
        assert (rows == number + 1).all()
        del mapped


def run_loop(on_gpu, *, use_step, steps=30, **settings):
    """A hash of what a loop with late and bfloat16 fields saw, how many exemplars, and what is stored."""
    sample = records([0], WORDS)
    spec = {name: Field(value.dtype, tuple(value.shape[1:])) for name, value in sample.items() if name != "sample_id"}
    spec |= {"scale": Field(torch.bfloat16, (3,)), "logits": Field(torch.float32, (5,), late=True)}
    seen, count = hashlib.sha256(), 0
    with Rehearsal(64, 8, seed=1, spec=spec, batch_size=16, verbose=False, **settings) as rehearsal:
        for t in range(steps):
            minibatch = records(range(t * 12, t * 12 + (12 if t % 5 else 7)), WORDS)
            ids = minibatch["sample_id"]
            minibatch["scale"] = ids[:, None].to(torch.bfloat16).expand(-1, 3).contiguous()
            logits = ids[:, None] * torch.arange(5.0)
            if on_gpu:
                minibatch, logits = to_gpu(minibatch), logits.cuda()
                keep_busy()
            if use_step:
                exemplars = rehearsal.step(minibatch)
                got = {} if exemplars is None else {**exemplars.fields, "sample_id": exemplars.sample_id}
                if exemplars is not None:
                    got |= {"age": exemplars.age, "weight": exemplars.weight, "stratum": exemplars.stratum}
                    got["slot"] = torch.from_numpy(np.ascontiguousarray(exemplars.handle.slot))
                    count += len(exemplars)
            else:
                got = rehearsal.extend(minibatch)
                count += len(got["rehearsed"]) - len(ids)
            assert all(value.is_cuda == on_gpu for name, value in got.items() if name != "slot")
            copies = {name: got[name].clone() for name in sorted(got)}  # queued behind the busy work
            rehearsal.attach(logits=logits)
            if on_gpu:
                for value in (*minibatch.values(), logits):
                    value.zero_()
            for value in copies.values():
                value = value.cpu()
                seen.update((value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy().tobytes())
        return seen.hexdigest(), count, sorted(rehearsal.sample_ids().tolist())


@pytest.mark.parametrize("use_step", [False, True], ids=["extend", "step"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["inline", "async"])
@pytest.mark.parametrize(("depth", "interval"), [(1, 1), (2, 1), (1, 3)])
def test_host_and_device_agree_bit_for_bit(use_step, asynchronous, depth, interval):
    settings = {"use_step": use_step, "asynchronous": asynchronous, "depth": depth, "interval": interval}
    expected = run_loop(False, **settings)
    assert expected[1] > 100
    assert run_loop(True, **settings, storage="host") == expected
    assert run_loop(True, **settings, storage="device") == expected


def test_a_host_minibatch_is_extended_on_the_device():
    with Rehearsal(64, 8, seed=1, device="cuda", verbose=False) as rehearsal:
        memory = records(range(12), WORDS)  # reused at once, as a loader may
        for t in range(30):
            for name, value in records(range(t * 12, t * 12 + 12), WORDS).items():
                memory[name].copy_(value)
            keep_busy()
            extended = rehearsal.extend(memory)
            for value in memory.values():
                value.zero_()
            assert all(value.is_cuda for value in extended.values())
            assert num_wrong({name: value.cpu() for name, value in extended.items()}, WORDS) == 0


def test_on_a_stream_of_the_callers():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), Rehearsal(64, 8, seed=1, verbose=False) as rehearsal:
        for t in range(30):
            minibatch = to_gpu(records(range(t * 12, t * 12 + 12), WORDS))
            keep_busy()
            extended = rehearsal.extend(minibatch)
            assert num_wrong({name: value.cpu() for name, value in extended.items()}, WORDS) == 0


@pytest.mark.parametrize("storage", ["host", "device"])
def test_a_state_goes_on_from_the_device_to_the_host(storage):
    def run(rehearsal, first, last, on_gpu):
        for t in range(first, last):
            minibatch = records(range(t * 12, t * 12 + 12))
            extended = rehearsal.extend(to_gpu(minibatch) if on_gpu else minibatch)
        return extended["sample_id"].cpu().tolist()

    with Rehearsal(64, 8, seed=1, depth=2, storage="host", verbose=False) as whole:
        expected = run(whole, 0, 30, False)
    with Rehearsal(64, 8, seed=1, depth=2, storage=storage, verbose=False) as first:
        run(first, 0, 15, True)
        state = first.state_dict()
    with Rehearsal(64, 8, seed=1, depth=2, storage="host", verbose=False) as second:
        second.load_state_dict(state)
        assert run(second, 15, 30, False) == expected


def test_a_buffer_in_gpu_memory_is_saved_lazily_and_forgets():
    with Rehearsal(64, 8, seed=1, storage="device", admission="fifo", verbose=False) as rehearsal:
        for t in range(10):
            rehearsal.extend(to_gpu(records(range(t * 12, t * 12 + 12), WORDS)))
        expected = rehearsal.state_dict()["buffer"]["rows"]
        lazy = rehearsal.state_dict(lazy=True)["buffer"]["rows"]
        for t in range(10, 14):
            keep_busy()
            rehearsal.extend(to_gpu(records(range(t * 12, t * 12 + 12), WORDS)))
        assert (lazy[:] == expected).all()
        lazy.close()
        rows = rehearsal._running.parts.buffer.rows.there
        assert rows.any()
        rehearsal.forget(rehearsal.sample_ids())
        assert not rows.any()


@pytest.mark.parametrize("storage", ["host", "device"])
def test_memory_does_not_grow(storage):
    gc.collect()
    with Rehearsal(64, 8, seed=1, storage=storage, verbose=False) as rehearsal:
        sizes = []
        for t in range(60):
            rehearsal.extend(to_gpu(records(range(t * 12, t * 12 + 12), WORDS)))
            torch.cuda.synchronize()
            sizes.append(torch.cuda.memory_allocated())
        assert sizes[-1] == sizes[10]


def test_fields_of_few_bits_are_encoded_on_the_device():
    spec = {
        "image": Field(torch.uint8, (3, 40, 40), codec=Bits(bits=4)),
        "tag": Field(torch.uint8, (5,), codec=Bits(bits=3)),
    }

    def rows(storage, on_gpu):
        generator = torch.Generator().manual_seed(0)
        with Rehearsal(40, 8, seed=1, spec=spec, stratum=None, storage=storage, verbose=False) as rehearsal:
            for t in range(12):
                given = {
                    name: torch.randint(0, 256, (12, *field.shape), dtype=torch.uint8, generator=generator)
                    for name, field in spec.items()
                }
                given["sample_id"] = torch.arange(12 * t, 12 * t + 12)
                batch = rehearsal.extend(to_gpu(given) if on_gpu else given)
            here = {name: value.cpu().tolist() for name, value in batch.items()}
            return here, rehearsal.state_dict()["buffer"]["rows"].tolist()

    expected = rows("host", False)
    assert rows("host", True) == expected
    assert rows("device", True) == expected
