"""The rehearsal: what a training loop calls. See `Rehearsal`.

The path of a minibatch t, on the training thread inside `extend`:

    wait for round t-1  →  commit minibatch t-1  →  hand in round t  →  stage minibatch t  →  return t + exemplars

Round t publishes what was committed, so minibatch t can be drawn from round t+1 on, when its late fields are known,
for every strategy and engine alike.
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

from drb.admission import Offer
from drb.assembly import Parts, assemble, greet_finished
from drb.distinct import DistinctCounter
from drb.exchange import Peers
from drb.extension import Extension
from drb.failure import GRACE_S, PeerError
from drb.proportions import build_proportions
from drb.record import ROUND, SAMPLE_ID, SLOT, STRATUM, Field, RecordSpec, warn_about_float_images
from drb.round import ACTIVE, FINISHED, RoundResult, UnevenError
from drb.sampler import Draw
from drb.seeding import mix64, sample_keys
from drb.settings import ARRIVAL, RehearsalSettings
from drb.types import Exemplars, Handle, Int64Array, Minibatch

log = logging.getLogger("drb")


class Rehearsal:
    """A distributed rehearsal buffer for a training loop of one's own. A context manager.

        with Rehearsal(capacity=500, exemplars=7, seed=0) as rehearsal:
            for minibatch in loader:                    # {"image", "label", "sample_id"}, b rows
                batch = rehearsal.extend(minibatch)     # b + r rows, and "rehearsed"

    Every rank makes the same calls in the same order; `extend`, `step` and `close` are collective.

    Args:
        capacity: of this rank's buffer: exemplars (500), memory ("20GiB") or a share of the data ("30%").
        exemplars: drawn per rank and round (r); every rank gets exactly min(r, union).
        seed: of admission and draws; the same on all ranks.
        spec: the record's schema, {name: Field | (dtype, shape)}; by default that of the first minibatch. Needed
            for late fields.
        capacity_scope: `rank`, or `total`: capacity is split over the ranks, the remainder to the low ones.
        candidates: samples per minibatch that are considered for admission; only for random_replacement.
        admission: reservoir, class_balanced, random_replacement or fifo.
        proportions: uniform, stream or balanced; see `drb.proportions`.
        exchange: auto, loopback, collective or shared; see `drb.exchange`.
        stratum: the integer field by which exemplars are counted, or None.
        sample_id: the int64 field that identifies samples in the whole stream; "arrival": every offer is new.
        asynchronous: True: rounds on a worker thread; False: inline; "auto": whichever is cheaper. The result is
            the same, bit for bit.
        process_group: the ranks that share their buffers; by default all. drb opens a Gloo group of its own.
        min_fill: no exemplars before the union holds so many; then always r, for fixed batch shapes.
        uneven: what happens when ranks stop at different steps. `error`: all are told. `stop`: all stop at the
            first end, by `extend` returning None.
        timeout_s: how long a round waits for the slowest rank.
        batch_size: the largest minibatch's rows, if the first is not the largest.
        num_samples: of the whole stream; for a capacity given as a share.
        verbose: print what was chosen and what memory it takes, on rank 0.
    """

    def __init__(
        self,
        capacity: int | str,
        exemplars: int,
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
        self._peers = _open_peers(process_group, timeout_s)
        self._rank = self._peers.rank if self._peers else 0
        self._parts: Parts | None = None
        self._extension: Extension | None = None
        self._round = -1
        self._in_flight = False
        self._ready: RoundResult | None = None  # a result that was waited for before it was needed
        self._arrivals = 0
        self._offered = DistinctCounter() if build_proportions(proportions).needs_offered else None
        self._saved: dict[str, Any] | None = None
        self._announced: _Announced | None = _Announced() if uneven == "stop" else None
        self._stopped = self._closed = False
        self._extend_seconds = self._wait_seconds = 0.0
        self._duplicate_share: float | None = None

    # -- a step

    def extend(self, minibatch: Minibatch) -> Minibatch:
        """The minibatch (b rows) with this step's exemplars behind it: b + r rows, and `rehearsed` bool [b + r].

        b rows until exemplars exist. The memory is reused two calls later: clone what you keep. With uneven="stop"
        None (and end your loop) once any rank has no more minibatches.

        Raises:
            ValueError: fields that differ from the schema; UnevenError: another rank stopped.
            PeerError: a rank died or stalled.
        """
        start = time.perf_counter()
        result = self._advance(minibatch)
        extended: Minibatch | None = None
        if not self._stopped:
            assert self._extension is not None
            host = minibatch if _is_on_cpu(minibatch) else {k: v.cpu() for k, v in minibatch.items()}
            turn, count = (result.round % 2, len(result.draw)) if result else (0, 0)
            extended = self._extension.extend(host, turn, count)
        self._extend_seconds += time.perf_counter() - start
        return extended  # type: ignore[return-value]

    def step(self, minibatch: Minibatch) -> Exemplars | None:
        """Offer a minibatch and get this step's exemplars, for strategies that treat them apart from it.

        None until exemplars exist, and with uneven="stop" once a rank has ended (see `stopped`).
        """
        start = time.perf_counter()
        result = self._advance(minibatch)
        exemplars = None
        if result is not None and len(result.draw) and not self._stopped:
            exemplars = self._exemplars(result)
        self._extend_seconds += time.perf_counter() - start
        return exemplars

    def attach(self, **late_fields: Tensor) -> None:
        """Give the last minibatch its late fields, [b, …] each: values that exist only after the forward pass."""
        start = time.perf_counter()
        parts = self._require_parts("attach")
        values = {name: value.detach().cpu() for name, value in late_fields.items()}
        parts.spec.check(values, parts.buffer.num_staged_rows, late=True)
        parts.buffer.attach(values)
        self._extend_seconds += time.perf_counter() - start

    @property
    def stopped(self) -> bool:
        """Whether a rank has ended and, with uneven="stop", all are to."""
        return self._stopped

    # -- what is known

    def describe(self) -> str:
        """One paragraph: what was chosen, and the memory it takes on this rank."""
        parts, settings = self._require_parts("describe"), self.settings
        memory = parts.memory_bytes()
        amounts = ", ".join(f"{name} {_size(amount)}" for name, amount in memory.items())
        return (
            f"rehearsal: {settings.exemplars} exemplars per rank and step from buffers of {parts.buffer.capacity} "
            f"per rank, {int(parts.capacities.sum())} in total ({settings.admission}, {settings.proportions}); "
            f"{parts.why}; "
            f"memory per rank at most {_size(sum(memory.values()))} ({amounts})"
        )

    def stats(self) -> dict[str, Any]:
        """Counts, bytes and seconds so far, of this rank unless it says total. Not collective.

        extend_seconds: on the training thread, in rehearsal calls; wait_seconds: of those, waiting for a round.
        round_seconds: of all rounds, with announce (waiting for the slowest rank), draw and fetch.
        stored_total: as of the last round; distinct_total: as of the last `duplicate_share`, else None.
        """
        if self._parts is None:
            return {"rounds": 0, "exemplars": self.settings.exemplars}
        parts, times = self._parts, self._parts.runner.times
        return {
            "rounds": times.rounds,
            "exemplars": self.settings.exemplars,
            "exemplars_fetched": times.exemplars,
            "capacity": parts.buffer.capacity,
            "capacity_total": int(parts.capacities.sum()),
            "stored": parts.buffer.size,
            "stored_total": parts.runner.union_size,
            "distinct_total": self._distinct_total(),
            "duplicate_share": self._duplicate_share,
            "bytes_per_rank": sum(parts.memory_bytes().values()),
            "extend_seconds": self._extend_seconds,
            "wait_seconds": self._wait_seconds,
            "round_seconds": times.total,
            "announce_seconds": times.announce,
            "draw_seconds": times.draw,
            "fetch_seconds": times.fetch,
            "worker_cpu_seconds": times.cpu if parts.is_async else 0.0,
            "exchange": parts.exchange.name,
            "asynchronous": parts.is_async,
        }

    def counts(self) -> dict[int, int]:
        """Exemplars in this rank's buffer per stratum, the last minibatch's included."""
        return self._parts.buffer.counts() if self._parts else {}

    def sample_ids(self) -> Int64Array:
        """Ids of the samples in this rank's buffer, the last minibatch's included: int64 [n], a copy."""
        return self._parts.buffer.sample_ids() if self._parts else np.empty(0, np.int64)

    def duplicate_share(self) -> float:
        """Share of the union's exemplars that are stored more than once. Collective.

        Ids are compared by hash bucket: each rank receives about as many as it stores. 0 with `OwnerSampler`;
        with reshuffled shards every rank sooner or later holds the same samples.
        """
        self._drain()
        ids = self.sample_ids()
        if self._peers is not None:
            bucket = (mix64(ids.view(np.uint64)) % np.uint64(self._peers.world_size)).astype(np.int64)
            order = np.argsort(bucket, kind="stable")
            ids, _ = self._peers.scatter(ids[order], np.bincount(bucket, minlength=self._peers.world_size))
        sums = np.array([len(ids), len(np.unique(ids))])
        if self._peers is not None:
            sums = self._peers.announce(sums).sum(axis=0)
        self._stored_at_check = int(sums[0])
        self._duplicate_share = float(1 - sums[1] / sums[0]) if sums[0] else 0.0
        return self._duplicate_share

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on, as arrays, numbers and strings. Waits for the round in flight."""
        self._drain()
        state: dict[str, Any] = {"format": 1, "round": self._round, "arrivals": self._arrivals}
        if self._parts is not None:
            state["spec"] = json.dumps(self._parts.spec.to_json())
            state["max_rows"] = self._parts.max_rows
            state["buffer"] = self._parts.buffer.state_dict()
            state["fetched"] = _save_result(self._ready)
        elif self._saved is not None:
            state = self._saved
        if self._offered is not None and self._parts is not None:
            state["offered"] = self._offered.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of the same rank and world size. Before the first minibatch."""
        if self._parts is not None:
            raise ValueError("load_state_dict must come before the first minibatch")
        if state.get("format") != 1:
            raise ValueError(f"this is a rehearsal state of format {state.get('format')}, this version reads format 1")
        self._saved = dict(state)
        if "spec" in state:
            saved = RecordSpec.from_json(json.loads(state["spec"]))
            if self._spec is not None and self._spec.to_json() != saved.to_json():
                raise ValueError(f"the saved schema is {saved.to_json()}, spec= says {self._spec.to_json()}")
            self._spec = saved

    # -- the end

    def close(self) -> None:
        """Finish the round in flight and tell the other ranks that this one ends. Collective, idempotent.

        Raises:
            UnevenError: other ranks go on (unless uneven="stop").
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._say_farewell()
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            # a farewell to dead peers would only hide the first error, but the round may know its cause
            self._closed = True
            cause = self._cause_of(error)
            self._release()
            if cause is not None:
                raise cause from error

    # -- inside a step

    def _advance(self, minibatch: Minibatch) -> RoundResult | None:
        """One turn: the exemplars of the last round in, the next round on its way, this minibatch staged."""
        if self._closed or self._stopped:
            raise ValueError("this rehearsal has ended; make a new one")
        if not minibatch:
            raise ValueError("the minibatch has no fields")
        if not _is_on_cpu(minibatch):
            minibatch = {name: value.cpu() for name, value in minibatch.items()}
        if self._parts is None:
            self._set_up(minibatch)
        parts = self._require_parts("extend")
        offer, fields = self._offer(minibatch, parts.spec)
        result = self._wait()
        parts.buffer.commit()
        self._submit(ACTIVE)
        parts.buffer.stage(fields, offer)
        if self._announced is not None:
            self._stopped = self._announced.someone_finished()
        return result

    def _offer(self, minibatch: Minibatch, spec: RecordSpec) -> tuple[Offer, Minibatch]:
        """What admission decides on; checks the minibatch, so that a broken one changes nothing."""
        settings = self.settings
        fields = dict(minibatch)
        num_rows = len(next(iter(fields.values())))
        if settings.sample_id == ARRIVAL:
            world_size = self._peers.world_size if self._peers else 1
            ids = (self._arrivals + np.arange(num_rows, dtype=np.int64)) * world_size + self._rank
        else:
            ids = _integers(fields.pop(settings.sample_id), "sample_id", settings.sample_id, num_rows)
        spec.check(fields, num_rows)
        stratum: Int64Array = np.full(num_rows, -1, np.int64)
        if settings.stratum in fields:
            stratum = _integers(fields[settings.stratum], "stratum", settings.stratum, num_rows)
        self._arrivals += num_rows
        keys = sample_keys(ids, settings.seed)
        if self._offered is not None:
            self._offered.add(keys)
        return Offer(ids, stratum, keys, self._round + 1), fields

    def _submit(self, status: int) -> None:
        self._round += 1
        round_, runner = self._round, self._require_parts("submit").runner
        offered = self._offered.count() if self._offered is not None else 0
        if self._peers is not None:
            self._peers.context = f"round {round_}"
        announced = self._announced
        if announced is None:
            call = lambda: runner.run(round_, status, offered)  # noqa: E731
        else:
            call = lambda: announced.watch(lambda: runner.run(round_, status, offered, announced.put))  # noqa: E731
        self._require_parts("submit").engine.submit(call)
        self._in_flight = True

    def _wait(self) -> RoundResult | None:
        """The result of the last round; None before the first. Raises what the round raised."""
        if self._ready is not None:
            result, self._ready = self._ready, None
            return result
        if not self._in_flight:
            return None
        start = time.perf_counter()
        self._in_flight = False
        try:
            result = self._require_parts("wait").engine.result(6 * self.settings.timeout_s)
        finally:
            self._wait_seconds += time.perf_counter() - start
        if result.someone_finished and self.settings.uneven == "error":
            raise _uneven(result)
        return result

    def _drain(self) -> None:
        """Wait for the round in flight and keep its result for the next step."""
        if self._in_flight:
            self._ready = self._wait()

    def _exemplars(self, result: RoundResult) -> Exemplars:
        """A block of rows as named tensors that share its memory."""
        spec = self._require_parts("step").spec
        rows, draw = result.rows, result.draw
        headers = torch.from_numpy(rows)
        return Exemplars(
            fields=spec.views(rows),
            sample_id=headers[:, SAMPLE_ID],
            stratum=headers[:, STRATUM],
            weight=torch.from_numpy(draw.weight).float(),
            age=result.round - headers[:, ROUND],
            handle=Handle(draw.owner, rows[:, SLOT], rows[:, ROUND]),
        )

    # -- set-up and end

    def _set_up(self, minibatch: Minibatch) -> None:
        settings = self.settings
        for name, value in minibatch.items():
            if not isinstance(value, Tensor) or value.dim() == 0:
                raise ValueError(f"field {name!r} must be a tensor with a batch dimension, got {type(value).__name__}")
        named_id = settings.sample_id != ARRIVAL
        if named_id and settings.sample_id not in minibatch:
            raise ValueError(
                f"the minibatch has no field {settings.sample_id!r} (it has {sorted(minibatch)}): wrap the dataset in "
                'drb.with_ids, or say sample_id="arrival" if every offer is a new sample'
            )
        if settings.needs_strata and settings.stratum not in minibatch:
            raise ValueError(
                f"admission={settings.admission}, proportions={settings.proportions} count exemplars by the field "
                f"{settings.stratum!r}, which the minibatch lacks (it has {sorted(minibatch)}); set stratum="
            )
        warn_about_float_images(minibatch)
        id_field = settings.sample_id if named_id else None
        spec = self._spec or RecordSpec.of(minibatch, exclude=id_field)
        max_rows = max(settings.batch_size or 0, len(next(iter(minibatch.values()))), _saved_rows(self._saved))
        self._parts = assemble(settings, spec, max_rows, self._peers)
        self._extension = Extension(spec, max_rows, self._parts.runner.blocks, id_field)
        if self._saved is not None:
            self._restore(self._parts, self._saved)
        if self._rank == 0:
            log.info(self.describe())
            if self._verbose:
                print(f"drb: {self.describe()}", file=sys.stderr, flush=True)

    def _restore(self, parts: Parts, state: dict[str, Any]) -> None:
        self._round, self._arrivals = int(state["round"]), int(state["arrivals"])
        if "buffer" in state:
            parts.buffer.load_state_dict(state["buffer"])
            self._ready = _load_result(state["fetched"], parts.runner.blocks, self._round)
            if self._offered is not None:
                self._offered.load_state_dict(state["offered"])
        self._saved = None

    def _say_farewell(self) -> None:
        if self._stopped:
            return
        if self._parts is None:
            if self._peers is not None:
                greet_finished(self._peers)
            return
        self._wait()
        if not self._parts.buffer.lacks_late_fields:
            self._parts.buffer.commit()
        self._submit(FINISHED)
        self._in_flight = False
        result = self._parts.engine.result(6 * self.settings.timeout_s)
        if (result.statuses == ACTIVE).any() and self.settings.uneven == "error":
            raise _uneven(result)

    def _cause_of(self, error: BaseException) -> BaseException | None:
        """Another rank's end shows first as a broken gradient all-reduce; the round in flight knows the reason."""
        if self._peers is None or not self._in_flight or not isinstance(error, RuntimeError):
            return None
        if isinstance(error, PeerError):
            return None
        assert self._parts is not None
        try:
            result = self._parts.engine.result(2 * GRACE_S)
        except (UnevenError, PeerError) as cause:
            return cause
        except BaseException:
            return None
        return _uneven(result) if result.someone_finished else None

    def _release(self) -> None:
        if self._parts is not None:
            self._parts.engine.close()
            self._parts.exchange.close()

    def _require_parts(self, operation: str) -> Parts:
        if self._parts is None:
            raise ValueError(f"{operation}() needs a first minibatch: call extend() or step() before")
        return self._parts

    def _distinct_total(self) -> int | None:
        if self._duplicate_share is None:
            return None
        return round(self._stored_at_check * (1 - self._duplicate_share))


class _Announced:
    """The statuses of the round just handed in, for uneven="stop"; also when the round fails before it knows them."""

    def __init__(self) -> None:
        from queue import SimpleQueue

        self._queue: SimpleQueue[bool] = SimpleQueue()
        self._was_put = False

    def put(self, statuses: Int64Array) -> None:
        self._was_put = True
        self._queue.put(bool((statuses == FINISHED).any()))

    def watch(self, call: Any) -> RoundResult:
        self._was_put = False
        try:
            result: RoundResult = call()
        finally:
            if not self._was_put:
                self._queue.put(False)  # the error itself comes with the round's result
        return result

    def someone_finished(self) -> bool:
        return self._queue.get()


def _open_peers(process_group: dist.ProcessGroup | None, timeout_s: float) -> Peers | None:
    """A Gloo group of drb's own over the same ranks; None for one rank."""
    from datetime import timedelta

    if not dist.is_initialized() or dist.get_world_size(process_group) == 1:
        return None
    ranks = dist.get_process_group_ranks(process_group)
    group = dist.new_group(
        ranks, timeout=timedelta(seconds=timeout_s), backend="gloo", use_local_synchronization=process_group is not None
    )
    return Peers(group)


def _is_on_cpu(minibatch: Minibatch) -> bool:
    return all(value.device.type == "cpu" for value in minibatch.values())


def _integers(values: Tensor, what: str, field: str, num_rows: int) -> Int64Array:
    if values.dim() != 1 or values.is_floating_point() or len(values) != num_rows:
        raise ValueError(
            f"the {what} field {field!r} must be one integer per row, got {values.dtype} {list(values.shape)} "
            f"for {num_rows} rows"
        )
    return np.ascontiguousarray(values.numpy(), dtype=np.int64)


def _uneven(result: RoundResult) -> UnevenError:
    finished = np.flatnonzero(result.statuses == FINISHED).tolist()
    going_on = np.flatnonzero(result.statuses == ACTIVE).tolist()
    return UnevenError(
        f"ranks {finished} stopped after {result.round} steps while ranks {going_on} go on; give every rank the same "
        'number of minibatches (drb.OwnerSampler does) or set uneven="stop"'
    )


def _save_result(result: RoundResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    draw = result.draw
    return {
        "rows": result.rows.copy(),
        "owner": draw.owner,
        "position": draw.position,
        "weight": draw.weight,
        "per_owner": draw.per_owner,
    }


def _load_result(state: Mapping[str, Any] | None, blocks: Int64Array, round_: int) -> RoundResult | None:
    if state is None:
        return None
    rows = blocks[round_ % 2, : len(state["rows"])]
    rows[:] = state["rows"]
    draw = Draw(state["owner"], state["position"], state["weight"], state["per_owner"])
    return RoundResult(round_, np.full(len(draw.per_owner), ACTIVE), draw, rows)


def _saved_rows(state: Mapping[str, Any] | None) -> int:
    return int(state.get("max_rows", 0)) if state else 0


def _size(num_bytes: int) -> str:
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"
