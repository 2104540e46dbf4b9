"""A training loop on the host or on a simulated GPU, and what it saw: the two must be equal, bit for bit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rehearsal.cuda.simulated import SimulatedGpu
from rehearsal.ranks.streams import ids_of_rank, records
from torch import Tensor

from drb import Rehearsal
from drb.buffer.record import HEADER_WORDS, Field

ROWS, CAPACITY, EXEMPLARS = 8, 24, 5
LOGITS = Field(torch.float32, (3,), late=True)


def late(ids: Tensor) -> Tensor:
    return ids[:, None] * torch.tensor([1.0, 0.5, 2.0])


def spec(refreshes: bool = False) -> dict[str, Field]:
    fields = {name: Field(v.dtype, tuple(v.shape[1:])) for name, v in records([0]).items() if name != "sample_id"}
    refreshed = {"logits": replace(LOGITS, refreshed=True), "first": LOGITS}
    return {**fields, "scale": Field(torch.bfloat16), **(refreshed if refreshes else {"logits": LOGITS})}


def minibatch(ids: np.ndarray) -> dict[str, Tensor]:
    values = records(torch.from_numpy(ids.copy()))
    return {**values, "scale": values["sample_id"].to(torch.bfloat16)}


def bare_side(gpu: SimulatedGpu) -> Any:
    """What a delivery needs of a `DeviceSide`, where nothing is admitted."""
    landing = SimpleNamespace(land=lambda wait: None, erase=lambda: None)
    return SimpleNamespace(device=gpu, stream=gpu.side_stream(), landing=landing, has_peers=False)


class Loop:
    """gpu: None for the host. on_gpu: which of the minibatch, by name, and "logits", lie there; None: all.

    rows: of most minibatches. refreshes: logits differ from step to step; stored samples get those
    of the last one, and keep those of the first as "first".
    """

    def __init__(
        self,
        gpu: SimulatedGpu | None,
        *,
        rank: int = 0,
        world_size: int = 1,
        use_step: bool = False,
        on_gpu: set[str] | None = None,
        wanted: Any = None,
        steps: int = 24,
        rows: int = ROWS,
        refreshes: bool = False,
        **settings: Any,
    ) -> None:
        settings = {"storage": "host", **settings}
        self.gpu, self.use_step, self.on_gpu, self.steps = gpu, use_step, on_gpu, steps
        self.rows, self.refreshes = rows, refreshes
        self.ids = ids_of_rank(rank, world_size, 200)
        self.seen, self.exemplars = hashlib.sha256(), 0
        self.rehearsal = Rehearsal(
            CAPACITY,
            EXEMPLARS,
            seed=5,
            spec=spec(refreshes),
            batch_size=ROWS,
            device=gpu or wanted,
            verbose=False,
            **settings,
        )

    def run(self, first: int = 0, last: int | None = None) -> None:
        for t in range(first, self.steps if last is None else last):
            self.step(t)

    def step(self, t: int) -> None:
        ids = self.ids[(t * 7) % 190 :][: self.rows if t % 5 else self.rows // 2]
        given = self._put(minibatch(ids))
        if self.use_step:
            self._see_exemplars(self.rehearsal.step(given))
        else:
            extended = self.rehearsal.extend(given)
            self._see({name: extended[name] for name in sorted(extended)})
            self.exemplars += len(extended["rehearsed"]) - len(ids)
        now = late(torch.from_numpy(ids)) + self.refreshes * t
        logits = self._put({"logits": now, **({"first": now.clone()} if self.refreshes else {})})
        self.rehearsal.attach(**logits)
        for value in (*given.values(), *logits.values()):  # the caller's memory is his again
            self._overwrite(value)

    def tell_the_judge(self) -> None:
        """From here on of what the host does to page-locked memory and to rows, too. After the first step."""
        gpu, parts = self.gpu, self.rehearsal._running.parts
        buffer, fetch, offer = parts.buffer, parts.exchange.fetch, self.rehearsal._running._intake.offer

        def told_fetch(owners: Any, positions: Any, out: Any) -> None:
            gpu.host_writes(torch.from_numpy(out))
            fetch(owners, positions, out)

        delivery = parts.runner.delivery
        deliver = delivery.fetch

        def told_deliver(owners: Any, positions: Any, block: int) -> None:
            if getattr(delivery, "_passing", 0) is None:  # which rows are gathered is written by numpy
                gpu.host_writes(delivery._pinned_index[block])
            deliver(owners, positions, block)

        def told_offer(ids: Any, strata: Any, *rest: Any) -> Any:
            gpu.host_reads(*(value for value in (ids, strata) if value is not None))
            return offer(ids, strata, *rest)

        stage, write_headers = buffer.stage, buffer._write_headers

        def told_stage(values: dict[str, Tensor], *rest: Any) -> Any:
            gpu.host_reads(*(value for value in values.values() if not gpu.owns(value)))
            return stage(values, *rest)

        def told_write_headers(offer: Any, decision: Any, where: Any) -> None:
            gpu.host_writes(*(torch.from_numpy(buffer.rows[row : row + 1, :HEADER_WORDS]) for row in where))
            write_headers(offer, decision, where)

        pack = buffer.pack

        def told_pack(fields: Any, selected: Any, where: Any) -> None:
            for name in fields:
                words = buffer.spec._span(name)
                gpu.host_writes(*(torch.from_numpy(buffer.rows[row : row + 1, words]) for row in where))
            pack(fields, selected, where)

        buffer.pack, buffer.stage = told_pack, told_stage
        parts.exchange.fetch, self.rehearsal._running._intake.offer = told_fetch, told_offer
        buffer._write_headers, delivery.fetch = told_write_headers, told_deliver

    def _see_exemplars(self, exemplars: Any) -> None:
        if exemplars is None:
            return
        self.exemplars += len(exemplars)
        rest = {name: getattr(exemplars, name) for name in ("sample_id", "stratum", "weight", "age")}
        self._see({**exemplars.fields, **rest})
        for column in (exemplars.handle.rank, exemplars.handle.slot, exemplars.handle.generation):
            self.seen.update(np.ascontiguousarray(column).tobytes())

    def _see(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            if self.gpu is not None:
                assert self.gpu.owns(value), f"{name} was returned on the host"
                value = self.gpu.get(value)
            if value.dtype == torch.bfloat16:
                value = value.view(torch.int16)
            self.seen.update(np.ascontiguousarray(value.numpy()).tobytes())

    def _put(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.gpu is None:
            return values
        there = {name: v for name, v in values.items() if self.on_gpu is None or name in self.on_gpu}
        return {**values, **self.gpu.put(there)}

    def _overwrite(self, value: Tensor) -> None:
        if self.gpu is not None and self.gpu.owns(value):
            self.gpu.zero(value)
        else:
            value.zero_()

    def result(self) -> tuple[str, int, list[int]]:
        return self.seen.hexdigest(), self.exemplars, sorted(self.rehearsal.sample_ids().tolist())


def run_loop(gpu: SimulatedGpu | None, **settings: Any) -> tuple[str, int, list[int]]:
    loop = Loop(gpu, **settings)
    with loop.rehearsal:
        loop.run()
        return loop.result()
