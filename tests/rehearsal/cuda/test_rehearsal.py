"""A rehearsal on a simulated GPU equals one on the host, bit for bit, whenever the GPU does its work."""

from __future__ import annotations

import itertools

import pytest
import torch
from rehearsal.cuda.loops import Loop, run_loop
from rehearsal.cuda.races import RaceError
from rehearsal.cuda.simulated import SimulatedGpu
from rehearsal.cuda.waits import needed_waits

from drb import Rehearsal
from drb.buffer.admission.mean_matching import MeanMatching
from drb.buffer.codecs import Bits
from drb.buffer.field import Field
from drb.rehearsal.cuda import DeviceRing

WAYS = pytest.mark.parametrize("is_early", [False, True], ids=["late", "early"])


ROUNDS = [(1, 1), (2, 1), (2, 3)]  # depth, interval


@pytest.mark.parametrize(
    ("is_early", "asynchronous", "use_step", "depth", "interval"),
    [  # a half in which each two settings meet in every way
        pytest.param(*way, *rounds, marks=() if (sum(way) + n) % 2 else pytest.mark.full)
        for n, rounds in enumerate(ROUNDS)
        for way in itertools.product([False, True], repeat=3)
    ],
)
def test_host_and_device_agree_bit_for_bit(is_early, asynchronous, use_step, depth, interval):
    settings = {"asynchronous": asynchronous, "use_step": use_step, "depth": depth, "interval": interval}
    expected = run_loop(None, **settings)
    assert expected[1] > 50
    assert run_loop(SimulatedGpu(is_early=is_early), **settings) == expected


@WAYS
@pytest.mark.parametrize(
    ("admission", "proportions", "candidates"),
    [("class_balanced", "balanced", None), ("random_replacement", "stream", 3), ("fifo", "uniform", None)],
)
def test_every_policy_decides_the_same_a_step_later(is_early, admission, proportions, candidates):
    settings = {"admission": admission, "proportions": proportions, "candidates": candidates}
    assert run_loop(SimulatedGpu(is_early=is_early), **settings) == run_loop(None, **settings)


@WAYS
@pytest.mark.parametrize("asynchronous", [False, True], ids=["inline", "async"])
@pytest.mark.parametrize("field", ["image", "logits"])
def test_a_policy_that_reads_fields_decides_the_same(is_early, asynchronous, field):
    settings = {"admission": MeanMatching(field=field), "asynchronous": asynchronous}
    expected = run_loop(None, **settings)
    assert expected[1] > 50
    assert run_loop(SimulatedGpu(is_early=is_early), **settings) == expected


@WAYS
@pytest.mark.parametrize("storage", ["host", "device"])
def test_late_fields_of_samples_that_are_offered_again_become_those_of_now(is_early, storage):
    settings = {"use_step": True, "refreshes": True}
    expected = run_loop(None, **settings)
    assert expected != run_loop(None, use_step=True)
    assert run_loop(SimulatedGpu(is_early=is_early), storage=storage, **settings) == expected


@WAYS
@pytest.mark.parametrize("on_gpu", [set(), {"image"}, {"image", "label", "scale"}, {"logits"}, {"sample_id", "logits"}])
def test_fields_may_lie_anywhere(is_early, on_gpu):
    assert run_loop(SimulatedGpu(is_early=is_early), on_gpu=on_gpu) == run_loop(None)


@pytest.mark.parametrize("settings", [{}, {"use_step": True, "depth": 2}, {"asynchronous": False}])
def test_host_memory_that_cannot_be_mapped(settings):
    """Then rows travel by way of copies."""
    loop = Loop(SimulatedGpu(maps=False), **settings)
    with loop.rehearsal:
        loop.run()
        assert loop.result() == run_loop(None, **settings)
        assert "not mapped" in loop.rehearsal.describe()


@pytest.mark.parametrize(("depth", "interval"), [(1, 1), (2, 3)])
def test_no_more_memory_of_the_device_is_taken_than_is_told(depth, interval, monkeypatch):
    gpu, taken, given = SimulatedGpu(is_early=True), [], []
    allocate, put = gpu.empty, gpu.put

    def empty(*args, **kwargs):
        memory = allocate(*args, **kwargs)
        taken.append(memory.nbytes)
        return memory

    def put_for_the_loop(values):
        there = put(values)
        given.extend(value.nbytes for value in there.values())
        return there

    monkeypatch.setattr(gpu, "empty", empty)
    monkeypatch.setattr(gpu, "put", put_for_the_loop)
    loop = Loop(gpu, depth=depth, interval=interval)
    loop.run(0, 12)
    told, by_drb = loop.rehearsal._running.parts.device_bytes(), sum(taken) - sum(given)
    assert by_drb <= told < 2 * by_drb
    assert f", of {gpu.device} " in loop.rehearsal.describe()
    loop.rehearsal.close()


@pytest.mark.parametrize("late", [False, True], ids=["minibatch", "late fields"])
def test_a_minibatch_that_could_not_be_stored_when_it_had_arrived(late, monkeypatch):
    loop = Loop(SimulatedGpu(is_early=True, maps=False))
    loop.run(0, 3)
    pack = loop.rehearsal._running.parts.spec.pack

    def out_of_memory(name, *rest):
        if late is (name == "logits"):
            raise MemoryError("no room")
        pack(name, *rest)

    monkeypatch.setattr(loop.rehearsal._running.parts.spec, "pack", out_of_memory)
    with pytest.raises(MemoryError):
        loop.run(3, 6)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="cannot go on .*MemoryError: no room"):
        loop.run(6, 7)
    loop.rehearsal.close()


def judged_loop(gpu, **settings):
    loop = Loop(gpu, asynchronous=False, **settings)
    loop.run(0, 1)
    loop.tell_the_judge()
    loop.run(1, 8)
    loop.rehearsal.close()  # raises what the last round raised


# from the GPU: ids and strata have arrived; late fields given before they are stored, exemplars ready
# from the host: minibatches, too, are given before they are stored, where the host did not wait for that
WAITS = {"from the gpu": (None, 8, 8 + 6), "from the host": (set(), 0, 2 * 8 + 6), "mixed": ({"image"}, 0, 2 * 8 + 6)}


@pytest.mark.parametrize(
    ("is_early", "on_gpu", "synchronize", "wait_event"),
    [
        pytest.param(
            *(is_early, *WAITS[name]),
            marks=() if name == ("from the host" if is_early else "from the gpu") else pytest.mark.full,
            id=f"{name}-{'early' if is_early else 'late'}",
        )
        for name in WAITS
        for is_early in (False, True)
    ],
)
def test_no_wait_is_missing(is_early, on_gpu, synchronize, wait_event):
    """Nothing in a loop of 8 steps is out of order, and without any one of so many waits something is.

    The others are those before memory is used for the second time, and those that another wait on this thread implies.
    """
    judged_loop(SimulatedGpu(is_early=is_early), on_gpu=on_gpu)
    found = needed_waits(lambda gpu: judged_loop(gpu, on_gpu=on_gpu), is_early=is_early)
    assert found == {"synchronize": synchronize, "wait_event": wait_event}


@WAYS
def test_nothing_is_used_again_before_it_was_gathered(is_early, monkeypatch):
    """Each wait at the beginning of a round is implied by the next one's, so all of them are left out together."""
    monkeypatch.setattr(DeviceRing, "prepare", lambda ring: ring.side.landing.land(wait=False))
    loop = Loop(SimulatedGpu(is_early=is_early), asynchronous=False, on_gpu=set(), steps=40)
    loop.run(0, 1)
    loop.tell_the_judge()
    with pytest.raises(RaceError):
        loop.run(1)


@pytest.mark.parametrize("exemplars", ["extend", "step"])
def test_fields_that_the_host_encodes_or_counts(exemplars):
    """A codec, optional late fields and growing ones: they reach the host's rows, and come back decoded."""
    spec = {
        "image": Field(torch.uint8, (2, 12), codec=Bits(bits=4)),
        "label": Field(torch.int64),
        "logits": Field(torch.float32, (5,), late=True, growing=True),
        "score": Field(torch.float32, late=True, optional=True),
    }

    def run(gpu):
        seen = []
        with Rehearsal(12, 4, spec=spec, seed=3, device=gpu, batch_size=6, verbose=False) as rehearsal:
            for t in range(12):
                ids = torch.arange(6 * t, 6 * t + 6)
                fields = {"image": (ids[:, None, None] * 7 % 250).expand(6, 2, 12).to(torch.uint8).contiguous()}
                given = {**fields, "label": ids % 3, "sample_id": ids}
                late = {"logits": ids[:, None] + torch.arange(2.0 + t // 4), "score": ids * 0.5}
                put = dict if gpu is None else gpu.put
                if exemplars == "step":
                    got = rehearsal.step(put(given))
                    values = {} if got is None else {**got.fields, **{f"known {n}": v for n, v in got.known.items()}}
                else:
                    values = rehearsal.extend(put(given))
                seen.append({n: (v if gpu is None else gpu.get(v)).clone().tolist() for n, v in values.items()})
                rehearsal.attach(**put(late))
            return seen, rehearsal.state_dict()["buffer"]["rows"].tolist()

    expected = run(None)
    assert expected[0][-1]
    assert run(SimulatedGpu()) == run(SimulatedGpu(is_early=True, maps=False)) == expected


@WAYS
def test_state_counts_and_ids_include_the_last_minibatch(is_early):
    loops = [Loop(gpu) for gpu in (None, SimulatedGpu(is_early=is_early))]
    for loop in loops:
        loop.run(0, 12)
    host, device = (loop.rehearsal for loop in loops)
    assert device.counts() == host.counts()
    loops[0].step(12)
    loops[1].step(12)
    assert sorted(device.sample_ids()) == sorted(host.sample_ids())
    loops[0].step(13)
    loops[1].step(13)
    states = [rehearsal.state_dict() for rehearsal in (device, host)]
    for state in states:
        del state["run"]  # read at the start from memory that the simulated GPU has not filled yet
    assert_equal(*states)
    for loop in loops:
        loop.rehearsal.close()


@WAYS
@pytest.mark.parametrize("saved_on_gpu", [False, True])
def test_a_run_goes_on_from_a_state_of_either(is_early, saved_on_gpu):
    def gpu(wanted):
        return SimulatedGpu(is_early=is_early) if wanted else None

    expected = run_loop(None, depth=2)
    first = Loop(gpu(saved_on_gpu), depth=2)
    first.run(0, 13)
    state = first.rehearsal.state_dict()
    first.rehearsal.close()
    second = Loop(gpu(not saved_on_gpu), depth=2)
    second.seen = first.seen
    second.rehearsal.load_state_dict(state)
    second.run(13)
    assert second.result()[::2] == expected[::2]
    second.rehearsal.close()


@WAYS
def test_forgetting_a_minibatch_that_has_not_arrived(is_early):
    loops = [Loop(gpu) for gpu in (None, SimulatedGpu(is_early=is_early))]
    for loop in loops:
        loop.run(0, 11)
        stored = loop.rehearsal.sample_ids()
        newest = [int(i) for i in loop.ids[70:78] if i in stored]
        assert newest, "nothing of the last minibatch was stored: the test shows nothing"
        loop.rehearsal.forget(newest)
        assert not set(newest) & set(loop.rehearsal.sample_ids().tolist())
        loop.run(11)
    assert loops[0].result() == loops[1].result()
    for loop in loops:
        loop.rehearsal.close()


def assert_equal(left, right, where="state"):
    """Nested states, without what is measured."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            if key != "stats":
                assert_equal(left[key], right[key], f"{where}.{key}")
    elif hasattr(left, "dtype"):
        assert (left == right).all(), where
    else:
        assert left == right, where
