"""A buffer in GPU memory equals one on the host, bit for bit, in all that a rehearsal does, and is in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rehearsal.cuda.loops import CAPACITY, Loop, minibatch, run_loop, spec
from rehearsal.cuda.simulated import SimulatedGpu
from rehearsal.cuda.test_rehearsal import assert_equal

from drb import Rehearsal
from drb.buffer.admission.mean_matching import MeanMatching
from drb.buffer.codecs import Bits
from drb.buffer.field import Field
from drb.buffer.storage.device import DeviceRows

WAYS = pytest.mark.parametrize("is_early", [False, True], ids=["late", "early"])
DEVICE = {"storage": "device"}
X, COUNTED = Field(torch.uint8, (8,)), Field(torch.float32, (2,), late=True, optional=True)


SETTINGS = [
    {},
    {"asynchronous": False, "use_step": True},
    {"depth": 2, "interval": 3},
    {"depth": 3, "use_step": True, "draws": 2},
    {"admission": "class_balanced", "proportions": "balanced"},
    {"admission": "random_replacement", "candidates": 3, "proportions": "stream"},
    {"admission": "fifo", "on_gpu": set()},
    {"admission": MeanMatching(field="image")},
    {"admission": MeanMatching(field="logits")},
    {"max_age": 6},
    {"max_age": 4, "refill": "recent", "depth": 2},
    {"min_fill": 20, "on_gpu": {"image"}},
]


@pytest.mark.parametrize(
    ("is_early", "settings"),
    [
        pytest.param(
            *(is_early, settings), marks=() if n % 2 == is_early else pytest.mark.full, id=f"{settings}-{is_early}"
        )
        for n, settings in enumerate(SETTINGS)
        for is_early in (False, True)
    ],
)
def test_the_buffer_may_lie_in_gpu_memory(is_early, settings):
    expected = run_loop(None, **settings)
    assert expected[1] > 20
    assert run_loop(SimulatedGpu(is_early=is_early), **settings, **DEVICE) == expected


class Watched(SimulatedGpu):
    """Knows which memory and which copies are drb's, and not the test's."""

    def __init__(self, **options):
        super().__init__(**options)
        self.memory = []

    def empty(self, shape, dtype, used_on=()):
        self.memory.append(super().empty(shape, dtype))
        return self.memory[-1]

    def empty_pinned(self, shape, dtype):
        self.memory.append(super().empty_pinned(shape, dtype))
        return self.memory[-1]

    def put(self, values):
        return self._apart(super().put, values)

    def get(self, value):
        return self._apart(super().get, value)

    def holds(self, mark):
        return any(
            mark in value.contiguous().view(torch.uint8).numpy().tobytes() for value in self.memory if value.dim()
        )

    def _apart(self, call, value):
        memory, copies = list(self.memory), self.copies.copy()
        try:
            return call(value)
        finally:
            self.memory, self.copies = memory, copies


def loops_on_host_and_device(is_early, **settings):
    return [Loop(None, **settings), Loop(Watched(is_early=is_early), **settings, **DEVICE)]


@WAYS
@pytest.mark.parametrize("lazy", [False, True])
def test_states_are_equal_and_go_on_on_either(is_early, lazy):
    loops = loops_on_host_and_device(is_early, depth=2)
    for loop in loops:
        loop.run(0, 13)
    host, device = (loop.rehearsal.state_dict(lazy=lazy) for loop in loops)
    for state in (host, device):
        del state["run"]
    rows = [np.asarray(state["buffer"].pop("rows")) for state in (host, device)]
    assert_equal(host, device)
    assert (rows[0] == rows[1]).all()
    state = loops[1].rehearsal.state_dict()
    goes_on = loops_on_host_and_device(not is_early, depth=2)
    for loop in goes_on:
        loop.seen = loops[0].seen.copy()
        loop.rehearsal.load_state_dict(state)
        loop.run(13)
    loops[0].run(13)
    assert loops[0].result()[::2] == goes_on[0].result()[::2] == goes_on[1].result()[::2]
    for loop in (*loops, *goes_on):
        loop.rehearsal.close()


@WAYS
def test_a_lazy_state_keeps_its_rows_while_the_buffer_goes_on(is_early):
    loop = loops_on_host_and_device(is_early, admission="fifo")[1]
    loop.run(0, 10)
    before = loop.rehearsal.state_dict()["buffer"]["rows"]
    loop.rehearsal.close()
    again = loops_on_host_and_device(is_early, admission="fifo")[1]
    again.run(0, 10)
    lazy = again.rehearsal.state_dict(lazy=True)["buffer"]["rows"]
    again.run(10, 13)  # which overwrites every row
    assert (lazy[:] == before).all()
    lazy.close()
    again.rehearsal.close()


@WAYS
def test_forgetting_leaves_nothing_in_gpu_memory(is_early):
    loops = loops_on_host_and_device(is_early)
    for loop in loops:
        loop.run(0, 11)
        stored = loop.rehearsal.sample_ids()
        gone = stored[::2].tolist()
        if loop.gpu is not None:
            marks = [bytes_of(int(sample)) for sample in gone]
            assert any(map(loop.gpu.holds, marks)), "the test shows nothing"
        assert loop.rehearsal.forget(gone, where={"label": 1}) >= len(gone)
        if loop.gpu is not None:
            loop.gpu.current().run_to(len(loop.gpu.current().work))  # what was returned is zeroed in its order
            assert not any(map(loop.gpu.holds, marks))
        loop.run(11)
    assert loops[0].result() == loops[1].result()
    for loop in loops:
        loop.rehearsal.close()


def bytes_of(sample):
    """An image's bytes, by which a record is found in memory."""
    return minibatch(np.array([sample]))["image"].numpy().tobytes()


@WAYS
def test_edits_are_equal(is_early):
    results = []
    for loop in loops_on_host_and_device(is_early):
        loop.run(0, 12)
        with loop.rehearsal.edit() as edit:
            first = next(iter(edit.stored("image", "logits")))
            edit.rewrite("logits", first.fields["logits"] + 1, first.sample_id)
            edit.remove(first.sample_id[::3])
        loop.run(12)
        results.append((loop.result(), loop.rehearsal.state_dict()["buffer"]["rows"].tolist()))
        loop.rehearsal.close()
    assert results[0] == results[1]


def test_no_row_of_the_buffer_is_on_the_host_and_memory_is_told():
    gpu = SimulatedGpu(is_early=True)
    loop = Loop(gpu, **DEVICE)
    loop.run(0, 12)
    parts = loop.rehearsal._running.parts
    assert isinstance(parts.buffer.rows, DeviceRows)
    told, host = loop.rehearsal.describe(), parts.memory_bytes()
    assert f"the buffer's rows lie on {gpu.device}" in told
    assert host["rows"] == CAPACITY * 32
    assert parts.device_bytes() > len(parts.buffer.rows) * parts.spec.row_bytes
    loop.rehearsal.close()


def test_auto_is_the_device_if_enough_of_it_is_left():
    for free, share, expected in (
        (1 << 20, 0.25, "the buffer's rows lie on cpu; storage device (auto: at most 0.25 of what is free)"),
        (16000, 0.25, "storage host (auto: device would take 4.375 KiB of GPU simulated, 15.62 KiB are free, device_"),
        (16000, 0.5, "storage device (auto: at most 0.5 of what is free)"),
    ):
        gpu = SimulatedGpu(is_early=True)
        gpu.free = free
        loop = Loop(gpu, storage="auto", device_share=share)
        loop.run(0, 2)
        assert expected in loop.rehearsal.describe()
        loop.rehearsal.close()
    with Rehearsal(CAPACITY, 3, device=SimulatedGpu(), spec={"x": X, "y": COUNTED}, verbose=False) as rehearsal:
        rehearsal.extend({"x": torch.zeros(4, 8, dtype=torch.uint8), "sample_id": torch.arange(4)})
        assert "storage host (auto: device has the GPU write all fields, and 'y' is opt" in rehearsal.describe()


@WAYS
def test_codecs_of_fixed_bits_encode_there(is_early):
    """Only what is admitted, on the side stream; in rows on the host, too."""
    spec = {
        "image": Field(torch.uint8, (2, 12), codec=Bits(bits=4)),
        "tag": Field(torch.uint8, (3,), codec=Bits(bits=3)),
        "map": Field(torch.uint8, (4, 4), late=True, codec=Bits(bits=2)),
    }

    def run(gpu, storage):
        seen, put = [], dict if gpu is None else gpu.put
        with Rehearsal(12, 4, spec=spec, seed=3, stratum=None, device=gpu, storage=storage, verbose=False) as rehearsal:
            for t in range(12):
                ids = torch.arange(6 * t, 6 * t + 6)
                given = {name: values_of(ids, field.shape) for name, field in spec.items()}
                late = {"map": given.pop("map")}
                got = {} if t % 3 == 2 else rehearsal.extend(put({**given, "sample_id": ids}))
                if t % 3 == 2:
                    exemplars = rehearsal.step(put({**given, "sample_id": ids}))
                    got = {} if exemplars is None else exemplars.fields
                seen.append({n: (v if gpu is None else gpu.get(v)).tolist() for n, v in got.items()})
                rehearsal.attach(**put(late))
            return seen, rehearsal.state_dict()["buffer"]["rows"].tolist()

    expected = run(None, "host")
    assert run(SimulatedGpu(is_early=is_early), "device") == expected
    assert run(SimulatedGpu(is_early=is_early), "host") == expected


def values_of(ids, shape):
    count = math.prod(shape)
    return ((ids[:, None] * 37 + torch.arange(count) * 11) % 256).to(torch.uint8).view(len(ids), *shape)


def test_steps_move_no_rows_between_host_and_gpu():
    gpu = Watched(is_early=True)
    loop = Loop(gpu, asynchronous=False, **DEVICE)
    loop.run(0, 10)
    gpu.copies.clear()
    loop.run(10, 20)
    assert gpu.copies.pop("device to pinned") == 10, "ids and strata, together"
    # which rows are drawn; which are admitted, and in which rows their late fields belong
    assert gpu.copies.pop("pinned to device") <= 3 * 10
    assert set(gpu.copies) <= {"device to device"}
    loop.rehearsal.close()


@pytest.mark.parametrize(
    ("gpu", "settings", "message"),
    [
        (None, {}, "storage=device needs exemplars on a GPU: give minibatches on a GPU or device="),
        (
            SimulatedGpu(),
            {"spec": {"x": X, "y": COUNTED}},
            "has the GPU write all fields, and 'y' is opt",
        ),
        (
            SimulatedGpu(),
            {"free": 1000},
            r"needs .* of GPU simulated, 1000 B are free; lower the rehearsal's",
        ),
    ],
)
def test_what_is_refused_before_anything_is_allocated(gpu, settings, message):
    settings = dict(settings)
    if gpu is not None:
        gpu.free = settings.pop("free", gpu.free)
    with Rehearsal(CAPACITY, 3, device=gpu, verbose=False, **settings, **DEVICE) as rehearsal:
        with pytest.raises(ValueError, match=message):
            rehearsal.extend({"x": torch.zeros(4, 8, dtype=torch.uint8), "sample_id": torch.arange(4)})
        assert gpu is None or not gpu._here


def test_storage_is_named_where_it_is_unknown():
    assert spec()
    with pytest.raises(ValueError, match="storage must be auto, host, device or mmap, got 'gpu'"):
        Rehearsal(CAPACITY, 3, storage="gpu")
