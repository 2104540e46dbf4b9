"""What is refused on a device is refused at once, by its type and shape, and has changed nothing."""

from __future__ import annotations

import pytest
import torch
from rehearsal.cuda.loops import EXEMPLARS, ROWS, Loop, minibatch, run_loop, spec
from rehearsal.cuda.simulated import SimulatedGpu

from drb import Rehearsal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": torch.zeros(8, dtype=torch.int32)}, "field 'label' is int32"),
        ({"label": torch.zeros(7, dtype=torch.int64)}, "field 'label' has 7 rows"),
        ({"sample_id": torch.zeros(8)}, "the sample id field 'sample_id' must hold integers"),
        ({"other": torch.zeros(8)}, r"not in the schema: \['other'\]"),
        ({"image": torch.zeros(9, 1, 2, 24, dtype=torch.uint8)}, "field 'image' has 9 rows|a minibatch of 9 rows"),
    ],
)
def test_a_broken_minibatch_changes_nothing(changes, message):
    gpu = SimulatedGpu()
    loop = Loop(gpu)
    with loop.rehearsal:
        loop.run(0, 10)
        with pytest.raises(ValueError, match=message):
            loop.rehearsal.extend(gpu.put({**minibatch(loop.ids[:8]), **changes}))
        loop.run(10)
        assert loop.result() == run_loop(None)


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ({"logits": torch.zeros(ROWS, 4)}, r"float32\[4\] a sample"),
        ({"logits": torch.zeros(3, 3)}, "has 3 rows, the minibatch has 8"),
        ({"scores": torch.zeros(ROWS, 3)}, r"missing: \['logits'\]"),
    ],
)
@pytest.mark.parametrize("is_on_gpu", [False, True])
def test_wrong_late_fields_attach_nothing(late, message, is_on_gpu):
    gpu = SimulatedGpu()
    with Loop(gpu).rehearsal as rehearsal:
        rehearsal.extend(gpu.put(minibatch(Loop(None).ids[:ROWS])))
        with pytest.raises(ValueError, match=message):
            rehearsal.attach(**(gpu.put(late) if is_on_gpu else late))
        with pytest.raises(ValueError, match="late fields .* were not attached"):
            rehearsal.extend(gpu.put(minibatch(Loop(None).ids[ROWS : 2 * ROWS])))
        rehearsal.attach(**gpu.put({"logits": torch.zeros(ROWS, 3)}))


def test_late_fields_given_twice_count_the_second_time():
    def logits_of(first, second):
        gpu = SimulatedGpu()
        with Rehearsal(8, EXEMPLARS, spec=spec(), device=gpu, verbose=False) as rehearsal:
            rehearsal.extend(gpu.put(minibatch(Loop(None).ids[:ROWS])))
            for value in (first, second):
                rehearsal.attach(**gpu.put({"logits": torch.full((ROWS, 3), value)}))
            rows = rehearsal.state_dict()["buffer"]["rows"]
            return rehearsal._running.parts.spec.views(rows)["logits"].unique().tolist()

    assert logits_of(1.0, 2.0) == [2.0]


def test_samples_numbered_on_arrival():
    def stored(gpu):
        fields = {"x": torch.arange(40.0).reshape(20, 2)}
        with Rehearsal(12, 3, sample_id="arrival", stratum=None, device=gpu, verbose=False) as rehearsal:
            for start in range(0, 20, 4):
                given = {"x": fields["x"][start : start + 4].clone()}
                rehearsal.extend(given if gpu is None else gpu.put(given))
            return sorted(rehearsal.sample_ids().tolist()), rehearsal.state_dict()["intake"]

    assert stored(SimulatedGpu()) == stored(None)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", 'device must be None, "cpu", "cuda" or "cuda:N", got \'gpu\''),
        ("cuda:99", "device=cuda:99 is not there: [0-9]+ CUDA devices are visible"),
        ("meta", "device must be a CUDA device or the CPU, got meta"),
    ],
)
def test_a_device_that_is_not_there(device, message):
    with pytest.raises(ValueError, match=message):
        Rehearsal(8, 3, device=device, verbose=False).extend(minibatch(Loop(None).ids[:ROWS]))
