"""The rehearsal: what a training loop calls. See `Rehearsal`.

Everything but the settings is made at the first minibatch, which shows what a record is; `drb.turns` has the order of
things in a step, `drb.round` what happens meanwhile on the worker.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

from drb.assembly import assemble, greet_finished
from drb.exchange import open_peers
from drb.extension import Extension
from drb.intake import Intake
from drb.record import Field, RecordSpec, warn_about_float_images
from drb.round import RoundResult
from drb.seeding import mix64
from drb.settings import RehearsalSettings
from drb.turns import Turns
from drb.types import Exemplars, Int64Array, Minibatch

log = logging.getLogger("drb")

_SUMMED = (
    "rounds",
    "exemplars_fetched",
    "extend_seconds",
    "wait_seconds",
    "round_seconds",
    "announce_seconds",
    "draw_seconds",
    "fetch_seconds",
    "worker_cpu_seconds",
)  # stats that a resumed run goes on counting
_FIXED_BY_STATE = ("seed", "admission", "sample_id")  # what is stored follows from them: keys, thresholds, ids


class Rehearsal:
    """A distributed rehearsal buffer for a training loop of one's own. A context manager.

        with Rehearsal(capacity=500, exemplars=7, seed=0) as rehearsal:
            for minibatch in loader:                    # {"image", "label", "sample_id"}, b rows
                batch = rehearsal.extend(minibatch)     # b + r rows, and "rehearsed"

    Every rank makes the same calls in the same order; `extend`, `step` and `close` are collective.

    Args:
        capacity: of this rank's buffer: exemplars (500), memory ("20GiB") or a share of the data ("30%").
        exemplars: drawn per rank and round (r); every rank gets exactly min(r, union). "auto" or "auto:64": the largest
            r up to 64 (or the minibatch's rows) whose rounds stay hidden, measured in the first steps.
        seed: of admission and draws; the same on all ranks.
        spec: the record's schema, {name: Field | (dtype, shape)}; by default that of the first minibatch. Needed
            for late fields.
        capacity_scope: `rank`, or `total`: capacity is split over the ranks, the remainder to the low ones.
        candidates: samples per minibatch that are considered for admission; only for random_replacement.
        admission: reservoir, class_balanced, random_replacement or fifo.
        proportions: uniform, stream or balanced; see `drb.proportions`.
        exchange: auto, loopback, collective, shared, hierarchical or rma (one-sided MPI); see `drb.exchange`.
        stratum: the integer field by which exemplars are counted, if there is one.
        sample_id: the int64 field that identifies samples in the whole stream; "arrival": every offer is new.
        asynchronous: True: rounds on a worker thread; False: inline; "auto": whichever is cheaper. The result is
            the same, bit for bit.
        process_group: the ranks that share their buffers; by default all. drb opens a Gloo group of its own.
        min_fill: no exemplars before the union holds so many; then always r, for fixed batch shapes.
        uneven: what happens when ranks stop at different steps. `error`: all are told. `stop`: all stop at the
            first end, by `extend` returning None; every call then waits until all ranks have made it.
        timeout_s: how long a round waits for the slowest rank.
        batch_size: the largest minibatch's rows, if the first is not the largest.
        num_samples: of the whole stream; for a capacity given as a share.
        verbose: print what was chosen and what memory it takes, on rank 0.
    """

    def __init__(
        self,
        capacity: int | str,
        exemplars: int | str,
        *,
        seed: int = 0,
        spec: RecordSpec | Mapping[str, Field | tuple[torch.dtype, tuple[int, ...]]] | None = None,
        capacity_scope: str = "rank",
        candidates: int | None = None,
        admission: str = "reservoir",
        proportions: str = "uniform",
        exchange: str = "auto",
        stratum: str | None = "label",
        sample_id: str = "sample_id",
        asynchronous: bool | Literal["auto"] = "auto",
        process_group: dist.ProcessGroup | None = None,
        min_fill: int = 1,
        uneven: str = "error",
        timeout_s: float = 300.0,
        batch_size: int | None = None,
        num_samples: int | None = None,
        verbose: bool = True,
    ) -> None:
        self.settings = RehearsalSettings(
            capacity=capacity,
            exemplars=exemplars,
            seed=seed,
            capacity_scope=capacity_scope,
            candidates=candidates,
            admission=admission,
            proportions=proportions,
            exchange=exchange,
            stratum=stratum,
            sample_id=sample_id,
            asynchronous=asynchronous,
            min_fill=min_fill,
            uneven=uneven,
            timeout_s=timeout_s,
            batch_size=batch_size,
            num_samples=num_samples,
        )
        self._spec = spec if spec is None or isinstance(spec, RecordSpec) else RecordSpec(spec)
        self._verbose = verbose
        self._peers = open_peers(process_group, timeout_s)
        self._rank, world_size = (self._peers.rank, self._peers.world_size) if self._peers else (0, 1)
        self._intake = Intake(self.settings, self._rank, world_size)
        self._turns: Turns | None = None  # from the first minibatch on
        self._extension: Extension | None = None
        self._saved: Mapping[str, Any] | None = None
        self._closed = False
        self._extend_seconds = 0.0
        self._earlier: dict[str, Any] = {}  # stats up to where this run was resumed
        self._stored_and_distinct: tuple[int, int] | None = None

    # -- a step

    def extend(self, minibatch: Minibatch) -> Minibatch:
        """The minibatch (b rows) with this step's exemplars behind it: b + r rows, and `rehearsed` bool [b + r].

        b rows until exemplars exist. The memory is reused two calls later, `rehearsed` is shared between calls: clone
        what you keep or write to. With uneven="stop" None (and end your loop) once any rank has no more minibatches.
        A minibatch on a GPU comes back there, at the price of waiting for its copy to the host: better give host
        tensors, and move what is returned (it is page-locked).

        Raises:
            ValueError: fields that differ from the schema; UnevenError: another rank stopped.
            PeerError: a rank died or stalled.
        """
        start = time.perf_counter()
        on_host = _on_cpu(minibatch)
        result = self._take_turn(on_host)
        extended: Minibatch | None = None
        if not self.stopped:
            assert self._extension is not None
            block, count = (result.round % 2, len(result.draw)) if result else (0, 0)
            extended = self._extension.extend(on_host, block, count)
            if on_host is not minibatch:
                device = next(iter(minibatch.values())).device
                extended = {name: value.to(device, non_blocking=True) for name, value in extended.items()}
        self._extend_seconds += time.perf_counter() - start
        return extended  # type: ignore[return-value]  # None only with uneven="stop", as documented

    def step(self, minibatch: Minibatch) -> Exemplars | None:
        """Offer a minibatch and get this step's exemplars, for strategies that treat them apart from it.

        None until exemplars exist, and with uneven="stop" once a rank has ended (see `stopped`).
        """
        start = time.perf_counter()
        result = self._take_turn(_on_cpu(minibatch))
        exemplars = None
        if result is not None and len(result.draw) and not self.stopped:
            exemplars = result.exemplars(self._require_turns("step").parts.spec)
        self._extend_seconds += time.perf_counter() - start
        return exemplars

    def attach(self, **late_fields: Tensor) -> None:
        """Give the last minibatch its late fields, [b, …] each: values that exist only after the forward pass."""
        start = time.perf_counter()
        parts = self._require_turns("attach").parts
        values = {name: value.detach().cpu() for name, value in late_fields.items()}
        parts.spec.check(values, parts.buffer.num_staged_rows, late=True)
        parts.buffer.attach(values)
        self._extend_seconds += time.perf_counter() - start

    @property
    def stopped(self) -> bool:
        """Whether a rank has ended and, with uneven="stop", all are to."""
        return self._turns is not None and self._turns.stopped

    # -- what is known

    def describe(self) -> str:
        """One paragraph: what was chosen, and the memory it takes on this rank."""
        return self._require_turns("describe").parts.describe(self.settings)

    def stats(self) -> dict[str, Any]:
        """Counts, bytes and seconds so far, of this rank unless it says total. Not collective.

        extend_seconds: on the training thread, in rehearsal calls; wait_seconds: of those, waiting for a round.
        round_seconds: of all rounds, with announce (waiting for the slowest rank), draw and fetch.
        stored_total: as of the last round or `duplicate_share`; distinct_total: as of the latter, else None.
        """
        if self._turns is None:
            return {"rounds": 0, "exemplars": self.settings.exemplars, **self._earlier}
        parts, times = self._turns.parts, self._turns.parts.runner.times
        checked, distinct = self._stored_and_distinct or (0, self._earlier.get("distinct_total"))
        stats: dict[str, Any] = {
            "rounds": times.rounds,
            "exemplars": parts.auto.chosen if parts.auto else self.settings.exemplars,
            "exemplars_fetched": times.exemplars,
            "capacity": parts.buffer.capacity,
            "capacity_total": int(parts.capacities.sum()),
            "stored": parts.buffer.size,
            "stored_total": max(parts.runner.union_size, checked),  # a check also counts what is not visible yet
            "distinct_total": distinct,
            "bytes_per_rank": sum(parts.memory_bytes().values()),
            "extend_seconds": self._extend_seconds,
            "wait_seconds": self._turns.wait_seconds,
            "round_seconds": times.total,
            "announce_seconds": times.announce,
            "draw_seconds": times.draw,
            "fetch_seconds": times.fetch,
            "worker_cpu_seconds": times.cpu if parts.is_async else 0.0,
            "exchange": parts.exchange.name,
            "asynchronous": parts.is_async,
        }
        return stats | {name: stats[name] + self._earlier[name] for name in _SUMMED if name in self._earlier}

    def counts(self) -> dict[int, int]:
        """Exemplars in this rank's buffer per stratum, the last minibatch's included."""
        if self._turns is not None:
            return self._turns.parts.buffer.counts()
        values, counts = np.unique(self._saved_column("stratum"), return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def sample_ids(self) -> Int64Array:
        """Ids of the samples in this rank's buffer, the last minibatch's included: int64 [n], a copy."""
        return self._turns.parts.buffer.sample_ids() if self._turns else self._saved_column("sample_id")

    def duplicate_share(self) -> float:
        """Share of the union's exemplars that are stored more than once. Collective.

        Ids are compared by hash bucket: each rank receives about as many as it stores. 0 with `OwnerSampler`;
        with reshuffled shards every rank sooner or later holds the same samples.
        """
        if self._turns is not None:
            self._turns.drain()
        ids = self.sample_ids()
        if self._peers is not None:
            bucket = (mix64(ids.view(np.uint64)) % np.uint64(self._peers.world_size)).astype(np.int64)
            order = np.argsort(bucket, kind="stable")
            ids, _ = self._peers.scatter(ids[order], np.bincount(bucket, minlength=self._peers.world_size))
        sums = np.array([len(ids), len(np.unique(ids))])
        if self._peers is not None:
            sums = self._peers.announce(sums).sum(axis=0)
        stored, distinct = self._stored_and_distinct = int(sums[0]), int(sums[1])
        return 1 - distinct / stored if stored else 0.0

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on, as arrays, numbers and strings. Waits for the round in flight."""
        if self._closed:
            raise ValueError("this rehearsal has ended and its memory is gone; take its state before close()")
        if self._turns is None:
            return dict(self._saved) if self._saved is not None else {"format": 1, "round": -1}
        return {
            "format": 1,
            "max_rows": self._turns.parts.max_rows,
            "settings": {name: getattr(self.settings, name) for name in _FIXED_BY_STATE},
            "spec": json.dumps(self._turns.parts.spec.to_json()),
            "intake": self._intake.state_dict(),
            **self._turns.state_dict(),
            "stats": self.stats(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of the same rank and world size. Before the first minibatch."""
        if self._turns is not None:
            raise ValueError("load_state_dict must come before the first minibatch")
        if state.get("format") != 1:
            raise ValueError(f"this is a rehearsal state of format {state.get('format')}, this version reads format 1")
        if "spec" in state:
            saved = RecordSpec.from_json(json.loads(state["spec"]))
            for name, value in state["settings"].items():
                if getattr(self.settings, name) != value:
                    raise ValueError(
                        f"the state was saved with {name}={value!r}, this rehearsal has "
                        f"{getattr(self.settings, name)!r}; resume with the same"
                    )
            if self._spec is not None and self._spec.to_json() != saved.to_json():
                raise ValueError(f"the saved schema is {saved.to_json()}, spec= says {self._spec.to_json()}")
            self._spec, self._saved = saved, dict(state)
            self._earlier = dict(state["stats"])

    # -- the end

    def close(self) -> None:
        """Finish the round in flight and tell the other ranks that this one ends. Collective, idempotent.

        Raises:
            UnevenError: other ranks go on (unless uneven="stop").
        """
        if self._closed:
            return
        self._closed = True
        together = False
        try:
            self._say_farewell()
            together = True
        finally:
            if self._turns is not None:
                self._turns.release(together)
        if self._peers is not None:
            self._peers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            # a farewell to dead peers would only hide the first error, but the round in flight may know its cause
            self._closed = True
            if self._turns is not None:
                cause = self._turns.cause_of(error)
                self._turns.release(together=False)
                if cause is not None:
                    raise cause from error

    # -- behind the scenes

    def _take_turn(self, minibatch: Minibatch) -> RoundResult | None:
        if self._closed or self.stopped:
            raise ValueError("this rehearsal has ended; make a new one")
        if not minibatch:
            raise ValueError("the minibatch has no fields")
        return (self._turns or self._set_up(minibatch)).take(minibatch)

    def _set_up(self, minibatch: Minibatch) -> Turns:
        """Build everything, now that a minibatch shows what a record is. Collective."""
        self._intake.check_first(minibatch)
        warn_about_float_images(minibatch)
        spec = self._spec or RecordSpec.of(minibatch, exclude=self.settings.id_field)
        saved, num_rows = self._saved or {}, len(next(iter(minibatch.values())))
        max_rows = max(self.settings.batch_size or 0, num_rows, int(saved.get("max_rows", 0)))
        parts = assemble(self.settings, spec, max_rows, self._peers)
        turns = Turns(parts, self._intake, self._peers, self.settings)
        if saved:
            self._intake.load_state_dict(saved["intake"])
            turns.load_state_dict(saved)
            self._saved = None
        self._extension = Extension(spec, max_rows, parts.runner.blocks, self.settings.id_field)
        self._turns = turns
        if self._rank == 0:
            self._say(self.describe())
            if parts.auto is not None:
                parts.auto.say = self._say
        return turns

    def _say(self, line: str) -> None:
        log.info(line)
        if self._verbose:
            print(f"drb: {line}", file=sys.stderr, flush=True)

    def _say_farewell(self) -> None:
        if self._turns is not None:
            self._turns.finish()
        elif self._peers is not None:
            greet_finished(self._peers)

    def _saved_column(self, name: str) -> Int64Array:
        """Of a loaded state whose first minibatch has not come yet."""
        column: Int64Array = self._saved["buffer"]["columns"][name] if self._saved else np.empty(0, np.int64)
        return column

    def _require_turns(self, operation: str) -> Turns:
        if self._turns is None:
            raise ValueError(f"{operation}() needs a first minibatch: call extend() or step() before")
        return self._turns


def _on_cpu(minibatch: Minibatch) -> Minibatch:
    """The fields in host memory. Raises ValueError for one that is no batch."""
    on_cpu = True
    for name, value in minibatch.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            raise ValueError(f"field {name!r} must be a tensor with a batch dimension, got {type(value).__name__}")
        on_cpu &= value.is_cpu
    return minibatch if on_cpu else {name: value.cpu() for name, value in minibatch.items()}
