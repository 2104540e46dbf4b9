"""Every byte of every row that rehearsal returns is checked on the GPU, while host and GPU run ahead at random.

Nothing here waits for the GPU: a row that is read before it was written, or overwritten too early, is counted wrong.
Memory that was given is zeroed as soon as it may be.
"""

from __future__ import annotations

import math
import random
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.jobs import synchronize, ways
from drb import Rehearsal
from drb.buffer.record import Field

_ROWS, _EXEMPLARS, _CAPACITY = 24, 8, 200
_LEAST_STEPS = 24  # until exemplars were drawn and rows used again, whatever the time
_MOST_CYCLES = 3_000_000  # of a delay, about 1.5 ms
_SETTINGS: dict[str, dict[str, Any]] = {
    "": {},
    "depth 2": {"depth": 2},
    "interval 3": {"interval": 3},
    "inline": {"asynchronous": False},
    "late fields": {"late": True},
    "fifo": {"admission": "fifo"},
    "balanced": {"admission": "class_balanced", "proportions": "balanced"},
    "own stream": {"own_stream": True},
}


def measure(device: torch.device, steps: int, within_s: float = math.inf) -> dict[str, dict[str, int]]:
    """Rows, rehearsed and wrong rows of at most `steps` steps of each way and setting, in equal parts of the time."""
    torch.set_num_threads(1)
    found, chosen = {}, ways(device)
    limit_s = within_s / (len(chosen) * len(_SETTINGS))
    for way, given in chosen.items():
        for name, settings in _SETTINGS.items():
            key = f"{way}, {name}".removesuffix(", ")
            found[key] = Soak(device, given.from_host).run(steps, limit_s, **{**settings, **given.settings})
            print(f"   {key}: {found[key]}", flush=True)
    return found


class Soak:
    """A loop whose rows are known from their ids. from_host: the minibatches are page-locked host memory."""

    def __init__(self, device: torch.device, from_host: bool) -> None:
        self._device, self._from_host = device, from_host
        self._is_cuda = device.type == "cuda"
        self._shape = (3, 128, 128) if self._is_cuda else (3, 16, 16)
        self._random = random.Random(1)
        self._wrong, self._rows, self._rehearsed = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(3))

    def run(
        self, steps: int, limit_s: float = math.inf, *, late: bool = False, own_stream: bool = False, **settings: Any
    ) -> dict[str, int]:
        end = time.monotonic() + limit_s
        spec = {"image": Field(torch.uint8, self._shape), "label": Field(torch.int64)}
        if late:
            spec["logits"] = Field(torch.float32, (5,), late=True)
        stream = torch.cuda.stream(torch.cuda.Stream()) if own_stream and self._is_cuda else nullcontext()
        with (
            stream,
            Rehearsal(
                _CAPACITY, _EXEMPLARS, seed=3, spec=spec, batch_size=_ROWS, verbose=False, **settings
            ) as rehearsal,
        ):
            for step in range(steps):
                if time.monotonic() > end and step >= _LEAST_STEPS:
                    break
                uses_step = settings.get("interval", 1) == 1 and step % 11 == 10
                self._step(rehearsal, step, late, uses_step)
        synchronize(self._device)
        return {"rows": int(self._rows), "rehearsed": int(self._rehearsed), "wrong": int(self._wrong)}

    def _step(self, rehearsal: Rehearsal, step: int, late: bool, uses_step: bool) -> None:
        rows = _ROWS if step % 7 else _ROWS - 5
        ids = torch.arange(step * _ROWS, step * _ROWS + rows, device="cpu" if self._from_host else self._device)
        batch = {"image": self._images(ids), "label": ids % 10, "sample_id": ids}
        if self._from_host and self._is_cuda:
            batch = {name: value.pin_memory() for name, value in batch.items()}
        self._delay()
        if uses_step:
            exemplars = rehearsal.step(batch)
            got = {**exemplars.fields, "sample_id": exemplars.sample_id} if exemplars is not None else {}
        else:
            got = dict(rehearsal.extend(batch))
            self._rehearsed += int(len(got["rehearsed"]) - rows)
            del got["rehearsed"]
        self._delay()
        if got:
            self._check(got, late and uses_step)
        if late:
            logits = _logits(torch.arange(step * _ROWS, step * _ROWS + rows, device=self._device))
            rehearsal.attach(logits=logits)
            logits.zero_()
        if not self._from_host:  # in the order of the stream, and so the caller's again
            for value in batch.values():
                value.zero_()

    def _check(self, got: dict[str, Tensor], with_logits: bool) -> None:
        there = {name: value.to(self._device, non_blocking=True) for name, value in got.items()}
        ids = there["sample_id"]
        bad = (there["image"] != self._images(ids)).flatten(1).any(1) | (there["label"] != ids % 10)
        if with_logits:
            bad |= (there["logits"] != _logits(ids)).any(1)
        self._wrong += bad.sum()
        self._rows += len(ids)

    def _images(self, ids: Tensor) -> Tensor:
        pattern = torch.arange(3 * self._shape[1] * self._shape[2], device=ids.device, dtype=torch.int32)
        return ((ids[:, None].to(torch.int32) * 31 + pattern) % 251).to(torch.uint8).view(len(ids), *self._shape)

    def _delay(self) -> None:
        if self._is_cuda and self._random.random() < 0.4:
            torch.cuda._sleep(self._random.randrange(_MOST_CYCLES))


def _logits(ids: Tensor) -> Tensor:
    return ids[:, None] * torch.arange(1.0, 6.0, device=ids.device)
