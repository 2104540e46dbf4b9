"""Training by drb's own loop with exemplars on a simulated GPU: what is copied, and that nothing else differs."""

from __future__ import annotations

import numpy as np
import pytest
from rehearsal.cuda.simulated import SimulatedGpu
from training.method.reference import DarkExperienceReplayPlusPlus
from training.parts import small_dataset, small_trainer, weights

from drb import Rehearsal
from drb.training.method.method import Method
from drb.training.strategies import ExperienceReplay

STEPS = 2 * 2 * 4  # tasks, epochs, minibatches of 8


def train(gpu, strategy, monkeypatch):
    """The weights that were learnt. With a GPU, minibatches lie in page-locked memory, as they do on CUDA."""
    with monkeypatch.context() as patch:
        if gpu is not None:
            patch.setattr("drb.training.loaders.memory_for", lambda device: gpu.empty_pinned)
        dataset, method = small_dataset(64), Method(strategy)
        spec = None
        if method.needs.late:
            spec = method.needs.record_of(dataset.train.gather(np.zeros(1, np.int64)), max_outputs=4)
        settings = {"draws": method.draws.total, "spec": spec, "batch_size": 9, "verbose": False}
        with Rehearsal(16, 4, device=gpu, **settings) as rehearsal:
            trainer = small_trainer(dataset, strategy, rehearsal=rehearsal, batch_size=8, epochs=2)
            trainer.run()
            assert trainer.steps == STEPS
            assert trainer.progress.history[-1]["counts"]
        return weights(trainer.network)


@pytest.mark.parametrize("strategy", [ExperienceReplay, DarkExperienceReplayPlusPlus])
def test_the_loop_moves_nothing_pageable_and_each_field_once(strategy, monkeypatch):
    gpu = SimulatedGpu(is_early=True)
    found, expected = (train(at, strategy(), monkeypatch) for at in (gpu, None))
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
    names = ["image", "label", "sample_id", "rows that were drawn", "rows that were admitted"]
    if strategy is DarkExperienceReplayPlusPlus:
        names.remove("sample_id")  # `step` returns the exemplars only, and the host has the ids
        names.append("what is known of exemplars")
    assert 0 < gpu.copies.pop("pinned to device") <= len(names) * STEPS + 2
    assert not gpu.copies, "pageable memory was moved, or something came back"
