"""Putting a rehearsal together, once the first minibatch has shown what a record is.

Collective: every rank tells the others its settings, schema, node and capacity, so that a rank that differs is
named before anything is allocated, and all ranks choose the same exchange and engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from drb.buffer.admission import Expiry, MaxAge, build_admission
from drb.buffer.buffer import COLUMN_BYTES, Buffer
from drb.buffer.positions import PositionTable
from drb.buffer.record import RecordSpec
from drb.buffer.spares import spare_rows
from drb.distributed.failure import first_few
from drb.exchange import (
    CollectiveExchange,
    Exchange,
    HierarchicalExchange,
    LoopbackExchange,
    Peers,
    RmaExchange,
    SharedExchange,
)
from drb.machine import node_name, usable_cores
from drb.rehearsal.auto import choose_engine, choose_exchange, has_core
from drb.rehearsal.auto_exemplars import AutoExemplars, MeasuringEngine
from drb.rehearsal.cuda import Device, DeviceRing, NcclExchange, RowLauncher
from drb.rehearsal.memory import SHARED, free_memory, memory_needed, require_room
from drb.rehearsal.parts import Parts, own_capacity
from drb.rehearsal.round import RoundRunner, UnevenError
from drb.rehearsal.settings import RehearsalSettings, require_agreement
from drb.sampling.proportions import build_proportions
from drb.sampling.sampler import Sampler
from drb.types import Int64Array


def assemble(
    settings: RehearsalSettings, spec: RecordSpec, max_rows: int, peers: Peers | None, device: Device | None = None
) -> Parts | None:
    """Build the parts; collective over `peers` (None: one rank).

    device: where exemplars are wanted; None: on the host.
    max_rows: of this rank's minibatches; 0 if it does not know yet and takes the others' largest. None if nobody knows.
    """
    rank, world_size = (peers.rank, peers.world_size) if peers else (0, 1)
    capacity = own_capacity(settings, spec, rank, world_size)
    greetings = _greet(peers, settings, spec, capacity, max_rows, device)
    max_rows = max_rows or max(g["max_rows"] for g in greetings)
    if not max_rows:
        return None
    nodes = [g["node"] for g in greetings]
    kind, why = choose_exchange(settings.exchange, nodes)
    _require_devices(kind, greetings)
    exemplars = settings.exemplars if isinstance(settings.exemplars, int) else _most_for_all(settings, greetings)
    depth, interval = settings.depth, settings.interval
    rows_of_ranks = _require_room(greetings, kind, spec, exemplars, depth, interval)
    capacities, rows_per_rank = np.array([g["capacity"] for g in greetings]), np.array(rows_of_ranks)
    if settings.min_fill > capacities.sum():
        raise ValueError(
            f"min_fill={settings.min_fill} is more than all buffers hold: {capacities.sum()} exemplars; nothing would "
            "ever be rehearsed"
        )
    at_once, num_blocks = interval * exemplars, depth + 1
    exchange = _build_exchange(kind, peers, nodes, rows_per_rank, capacities, spec.words, at_once, num_blocks)
    admission = build_admission(
        settings.admission, candidates=settings.candidates, seed=settings.seed, rank=rank, refill=settings.refill
    )
    expiry = None if settings.max_age is None else Expiry(MaxAge.parse(settings.max_age))
    proportions = build_proportions(settings.proportions)
    buffer = Buffer(spec, capacity, exchange.rows, admission, expiry=expiry)
    runner = RoundRunner(
        PositionTable(capacity, by_stratum=proportions.needs_strata),
        exchange,
        Sampler(exemplars, proportions.groups, seed=settings.seed, rank=rank, min_fill=settings.min_fill),
        rank=rank,
        world_size=world_size,
        exemplars=exemplars,
        count_strata=proportions.needs_strata,
        depth=depth,
        interval=interval,
    )
    outlet = None if device is None else _open_outlet(device, exchange, peers, runner)
    engine, engine_why = choose_engine(
        settings, kind, at_once * spec.row_bytes, proportions.needs_strata, has_core(greetings, rank)
    )
    ahead = _ahead(depth, interval)
    auto = None
    if isinstance(engine, MeasuringEngine):
        auto = AutoExemplars(exemplars, exchange, engine, world_size=world_size, min_fill=settings.min_fill)
        runner.exemplars_of = auto.next
    return Parts(
        spec,
        buffer,
        exchange,
        runner,
        engine,
        capacities,
        max_rows,
        exemplars,
        depth,
        interval,
        f"{why}; {engine_why}{ahead}{'' if device is None else f'; exemplars go to {device.device}'}",
        proportions.needs_offered,
        outlet,
        auto,
    )


def greet_finished(peers: Peers) -> None:
    """This rank ends before its first minibatch: tell the others, who wait in `assemble`."""
    greetings = peers.gather_json({"finished": True}, "settings")
    _require_started(greetings)


def _greet(
    peers: Peers | None,
    settings: RehearsalSettings,
    spec: RecordSpec,
    capacity: int,
    max_rows: int,
    device: Device | None,
) -> list[dict[str, Any]]:
    mine = {
        "finished": False,
        "settings": settings.shared_by_all(),
        "schema": {name: str(field) for name, field in spec.fields.items()},
        "node": node_name(),
        "capacity": capacity,
        "max_rows": max_rows,
        "device": device is not None,
        "free": free_memory(),
        "cores": format(sum(1 << core for core in usable_cores()), "x"),
        "threads": torch.get_num_threads(),
    }
    if peers is None:
        return [mine]
    greetings = peers.gather_json(mine, "settings")
    _require_started(greetings)
    require_agreement([g["settings"] for g in greetings], "setting")
    require_agreement([g["schema"] for g in greetings], "the record's field")
    return greetings


def _require_room(
    greetings: list[dict[str, Any]], kind: str, spec: RecordSpec, exemplars: int, depth: int, interval: int
) -> list[int]:
    """Rows that each rank is to have. Raises ValueError, on all ranks, if a node has not the memory."""
    most = max(g["max_rows"] for g in greetings)
    rows = [g["capacity"] + spare_rows(g["capacity"], g["max_rows"] or most, depth, interval) for g in greetings]
    needed = []
    for greeting, num_rows in zip(greetings, rows, strict=True):
        capacity = greeting["capacity"]
        amounts = memory_needed(
            capacity=capacity,
            num_rows=num_rows,
            max_rows=greeting["max_rows"] or most,
            exemplars=exemplars,
            fetched=(depth + 1) * interval * exemplars,
            row_bytes=spec.row_bytes,
            column_bytes=COLUMN_BYTES,
            staging=0,  # its bound is for one rank that holds the whole union
        )
        in_shared_memory = kind in ("shared", "hierarchical")
        needed.append(amounts | {SHARED: num_rows * spec.row_bytes + 16 * capacity if in_shared_memory else 0})
    require_room(needed, [g["free"] for g in greetings], [g["node"] for g in greetings])
    return rows


def _most_for_all(settings: RehearsalSettings, greetings: list[dict[str, Any]]) -> int:
    """The limit of exemplars=auto: that of the rank with the smallest minibatches, and no more than are ever stored."""
    smallest = min(g["max_rows"] for g in greetings if g["max_rows"])
    return int(min(settings.most_exemplars(smallest), sum(g["capacity"] for g in greetings)))


def _require_started(greetings: list[dict[str, Any]]) -> None:
    finished = [rank for rank, g in enumerate(greetings) if g["finished"]]
    if finished and len(finished) < len(greetings):
        raise UnevenError(
            f"ranks [{first_few(finished)}] stopped before their first minibatch while the others have data"
        )


def _require_devices(kind: str, greetings: list[dict[str, Any]]) -> None:
    without = [rank for rank, greeting in enumerate(greetings) if not greeting["device"]]
    if kind == "nccl" and without:
        raise ValueError(
            f"exchange=nccl takes rows from GPU to GPU, but ranks [{first_few(without)}] have their exemplars on the "
            "host: give minibatches on a GPU or device=, or set exchange=auto"
        )


def _build_exchange(
    kind: str,
    peers: Peers | None,
    nodes: list[object],
    rows_per_rank: Int64Array,
    capacities: Int64Array,
    words: int,
    exemplars: int,
    num_blocks: int,
) -> Exchange:
    if peers is None:
        return LoopbackExchange(int(rows_per_rank[0]), words)
    if kind == "shared":
        return SharedExchange(peers, rows_per_rank, capacities, words)
    if kind == "hierarchical":
        return HierarchicalExchange(peers, nodes, rows_per_rank, capacities, words, exemplars)
    if kind == "rma":
        return RmaExchange(peers, nodes, rows_per_rank, capacities, words)
    if kind == "nccl":
        return NcclExchange(peers, nodes, int(rows_per_rank[peers.rank]), words, exemplars, num_blocks)
    return CollectiveExchange(peers, nodes, int(rows_per_rank[peers.rank]), words, exemplars)


def _open_outlet(
    device: Device, exchange: Exchange, peers: Peers | None, runner: RoundRunner
) -> DeviceRing | RowLauncher:
    outlet: DeviceRing | RowLauncher
    if isinstance(exchange, NcclExchange) and peers is not None:
        outlet = RowLauncher(device, exchange, device.open_rows(peers), runner.blocks)
    else:
        outlet = DeviceRing(device, exchange, runner.blocks)
    runner.deliver_by(outlet)
    return outlet


def _ahead(depth: int, interval: int) -> str:
    """What describe() says of rounds that are not one per step, one at a time."""
    every = f", every {interval} steps" if interval > 1 else ""
    return every + (f", {depth} in flight" if depth > 1 else "")
