"""Feedback that lies on a GPU counts as that on the host does, in the same round, whenever the GPU does its work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rehearsal.cuda.loops import Loop, minibatch
from rehearsal.cuda.simulated import SimulatedGpu
from rehearsal.learning import is_right, losses, same


class LearningLoop(Loop):
    """Gives feedback on exemplars, and then writes to its tensors."""

    def step(self, t: int) -> None:
        ids = self.ids[(t * 7) % 190 :][: self.rows]
        extended = self.rehearsal.extend(self._put(minibatch(ids)))
        self._see({name: extended[name] for name in sorted(extended)})
        drawn = (extended["sample_id"] if self.gpu is None else self.gpu.get(extended["sample_id"]))[len(ids) :].clone()
        self.exemplars += len(drawn)
        self.rehearsal.attach(logits=torch.zeros(len(ids), 3))
        if t % 4 and len(drawn):
            loss = losses(drawn, t) + torch.tensor([torch.nan, *[0] * (len(drawn) - 1)])
            given = self._put({"loss": loss, "correct": is_right(drawn, t), "known": loss.isfinite()})
            self.rehearsal.feedback(**given)
            for value in given.values():
                self._overwrite(value)


def learn(gpu: SimulatedGpu | None, **settings: Any) -> tuple[str, int, dict[str, Any]]:
    loop = LearningLoop(gpu, proportions="mix_cd", **settings)
    with loop.rehearsal:
        loop.run()
        state = loop.rehearsal.state_dict()["learnt"]
    return loop.seen.hexdigest(), loop.exemplars, state


@pytest.mark.parametrize("is_early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("on_gpu", [None, {"loss"}])
def test_feedback_on_a_gpu_counts_as_on_the_host(is_early: bool, on_gpu: set[str] | None) -> None:
    settings = {"asynchronous": is_early, "depth": 2, "interval": 2}
    seen, exemplars, learnt = learn(None, **settings)
    assert exemplars > 50
    assert learnt["learnt"]["damaged"].sum() > 0
    there = learn(SimulatedGpu(is_early=is_early), on_gpu=on_gpu, **settings)
    assert there[:2] == (seen, exemplars)
    assert same(there[2], learnt)
