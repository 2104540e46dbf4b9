"""The program: reads the options, measures or calculates, and prints on rank 0."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from drb.buffer.buffer import COLUMN_BYTES
from drb.buffer.capacity import capacity_of_rank
from drb.buffer.record import Field, RecordSpec
from drb.data.datasets import Dataset
from drb.distributed.agreement import check_same_settings
from drb.distributed.failure import PeerError
from drb.distributed.world import World, detect_world, open_world
from drb.exchange import open_peers
from drb.machine import node_name
from drb.plan.forecast import Forecast, Job, forecast, table, verdict
from drb.plan.model import Costs, Machine, Place
from drb.plan.options import HELP, Options, ask_for_step, parse_options
from drb.plan.probe import MOST_BYTES, Measured, measure_alone, measure_machine, measure_rounds
from drb.plan.steps import measure_step
from drb.program.config import TrainConfig, check_config, compose_config
from drb.program.config.checks import exemplars_per_rank
from drb.program.run import dataset_of
from drb.program.summary import write_atomically
from drb.rehearsal.auto_exemplars import Line
from drb.rehearsal.settings import RehearsalSettings, auto_limit
from drb.sampling.proportions import build_proportions

# Where nothing was measured. As `python benchmarks/plan_prediction.py` fitted it to two ranks on two cores of a cloud
# machine (`costs`, "shared, small"), but for the clock's costs of messages, which are the CPU's here: there, the rank
# that plays several peers does so on one core. Assumed, not measured: 16 cores, and a network of 100 Gbit/s.
TYPICAL = Machine(
    clock=Costs(
        round_s=4.2e-5,
        collective_s=2.4e-5,
        message_s=9.3e-5,
        wait_s=1.9e-4,
        gather_speed=1.4e10,
        node_speed=1.5e9,
        network_speed=12.5e9,
        latency_s=2e-6,
    ),
    cpu=Costs(
        round_s=4.1e-5,
        collective_s=2.4e-5,
        message_s=9.3e-5,
        wait_s=1.2e-4,
        gather_speed=1.4e10,
        node_speed=1.5e9,
        network_speed=1.5e9,
    ),
    cores=16,
    shared_core_s=6.3e-5,
)
_GRACE_S = 5.0


def main(arguments: Sequence[str]) -> int:
    """Plan; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    rank = 0
    try:
        world = detect_world("cpu")
        rank = world.rank
        options = parse_options(arguments)
        if options.simulate:
            answers, measured = _simulate(options), None
        else:
            answers, measured = _probe(options)
        if rank == 0 and options.json is not None:
            found = {"forecasts": [told.to_json() for told in answers]}
            write_atomically(options.json, found if measured is None else found | {"measured": measured.to_json()})
    except (ValueError, PeerError, OSError) as error:
        if rank:
            time.sleep(_GRACE_S)  # rank 0 says the same
        print(f"drb: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
    return 0


def _simulate(options: Options) -> list[Forecast]:
    config, dataset, spec = _configured(options, 1)
    rows = config.training.rows_per_rank(1)
    step_s = options.step_s or ask_for_step(rows)
    machine = TYPICAL if options.measured is None else _read_measured(options.measured, max(options.ranks)).machine
    machine = machine.with_network(options.latency_s, options.bandwidth)
    step = Line(step_s, step_s / rows)
    job = _job(config, dataset, spec, 1, config.threads or 1)
    network = machine.clock
    ahead = "" if job.depth == job.interval == 1 else f"a round every {job.interval} steps, {job.depth} in flight, "
    print(
        f"b={job.batch_size} r={job.exemplars} M={job.capacity} per rank, records of {job.row_bytes} bytes, {ahead}"
        f"{options.per_node} ranks per node; a step on b rows takes {step_s:g} s, network {network.latency_s:g} s and "
        f"{network.network_speed / 1e9:g} GB/s per node"
    )
    told = []
    for ranks in options.ranks:
        place = Place(ranks, min(options.per_node, ranks))
        told.append(forecast(job, place, machine, step))
    print(table(told))
    return told


def _probe(options: Options) -> tuple[list[Forecast], Measured]:
    world = detect_world("auto")
    config, dataset, spec = _configured(options, world.world_size)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with open_world(world, config.timeout_s, config.start_timeout_s):
        check_same_settings({"arguments": list(options.settings), "step": options.step_s}, world)
        measured = _measure(options, config, dataset, spec, world)
        job = _job(config, dataset, spec, world.world_size, torch.get_num_threads())
        step = measured.step
        if step is None:
            assert options.step_s is not None
            step = Line(options.step_s, options.step_s / job.batch_size)
        place = Place(measured.ranks, measured.per_node)
        told = forecast(job, place, measured.machine, step, measured.round_line)
        if world.is_main:
            print(verdict(job, told), flush=True)
    return [told], measured


def _measure(
    options: Options, config: TrainConfig, dataset: Dataset | None, spec: RecordSpec, world: World
) -> Measured:
    job = _job(config, dataset, spec, world.world_size, torch.get_num_threads())
    most = max(job.batch_size, job.exemplars)
    peers = open_peers(None, config.rehearsal.timeout_s)
    nodes: list[Any] = [node_name()] if peers is None else peers.gather_json(node_name(), "nodes")
    place = Place(len(nodes), max(nodes.count(node) for node in nodes))
    share = 0.3 if options.step_s is None else 0.7  # of the time, for rounds; messages take a second or two
    step = None
    if options.step_s is None:
        assert dataset is not None
        step = measure_step(config, dataset, spec, world, peers, job.exemplars, 0.5 * options.seconds)
    settings = RehearsalSettings(
        capacity=min(job.capacity, max(most, MOST_BYTES // spec.row_bytes)),
        exemplars=most,
        admission="fifo",
        proportions=config.rehearsal.proportions,
        exchange=config.rehearsal.exchange,
        timeout_s=config.rehearsal.timeout_s,
        interval=config.rehearsal.interval,
    )
    parts, rounds = measure_rounds(settings, spec, job.batch_size, peers, share * options.seconds)
    alone, more = rounds[0], 0.1 * options.seconds
    if peers is not None:
        alone = measure_alone(settings, spec, job.batch_size, alone[0], more / 4)
    machine = measure_machine(parts, rounds[0], alone, place, peers, nodes, more)
    kind = parts.exchange.name
    parts.engine.close()
    parts.exchange.close(together=True)
    if peers is not None:
        peers.close()
    return Measured(place.world_size, place.per_node, kind, spec.row_bytes, step, rounds, machine, job.interval)


def _configured(options: Options, world_size: int) -> tuple[TrainConfig, Dataset | None, RecordSpec]:
    """The configuration, its data (None where only the size of a record counts) and the schema of its records."""
    config, _ = compose_config(options.settings, "plan")
    check_config(config, world_size)
    if options.record_bytes is not None:
        shape: tuple[int, ...] = (options.record_bytes,)
        dataset = None
    else:
        dataset = dataset_of(config, None)
        shape = dataset.image_shape
    return config, dataset, RecordSpec({"image": Field(torch.uint8, shape), "label": Field(torch.int64)})


def _job(config: TrainConfig, dataset: Dataset | None, spec: RecordSpec, world_size: int, threads: int) -> Job:
    """What the settings say of one rank; exemplars=auto is taken for its limit. threads: that train."""
    rows = config.training.rows_per_rank(world_size)
    exemplars = exemplars_per_rank(config, world_size)
    rehearsal, proportions = config.rehearsal, build_proportions(config.rehearsal.proportions)
    capacity = capacity_of_rank(
        rehearsal.capacity,
        rehearsal.capacity_scope,
        rank=0,
        world_size=world_size,
        record_bytes=spec.row_bytes + COLUMN_BYTES,
        num_samples=None if dataset is None else len(dataset.train),
    )
    return Job(
        batch_size=rows,
        exemplars=exemplars if isinstance(exemplars, int) else auto_limit(exemplars) or rows,
        candidates=min(rows, rehearsal.candidates or rows),
        capacity=capacity,
        row_bytes=spec.row_bytes,
        exchange=rehearsal.exchange,
        depth=rehearsal.depth,
        interval=rehearsal.interval,
        asynchronous=rehearsal.asynchronous if isinstance(exemplars, int) else True,
        counts_strata=proportions.needs_strata,
        counts_offers=proportions.needs_offered,
        threads=threads,
        has_gpu=config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()),
    )


def _read_measured(path: Path, most_ranks: int) -> Measured:
    """most_ranks: that it is asked about."""
    try:
        measured = Measured.from_json(json.loads(path.read_text())["measured"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--measured {path} is no file that drb plan --json has written: {type(error).__name__}: {error}"
        ) from None
    if measured.ranks == 1 < most_ranks:
        raise ValueError(
            f"--measured {path} is of one rank, which sent nothing, so it does not tell what {most_ranks} ranks would "
            "take: probe on two or more, or give --ranks 1"
        )
    return measured
