"""What `auto` stands for: exchange and storage, alike on all ranks, and the engine, which each may choose by itself."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from drb.buffer.record import RecordSpec
from drb.distributed.failure import first_few
from drb.exchange import Exchange, Transport
from drb.exchange.collective import Collective
from drb.exchange.hierarchical import Hierarchical
from drb.exchange.loopback import Loopback
from drb.exchange.shared import Shared
from drb.machine import format_bytes
from drb.rehearsal.auto_exemplars import AutoExemplars, MeasuringEngine
from drb.rehearsal.cuda.side import fields_of_host
from drb.rehearsal.engine import AsyncEngine, Engine, InlineEngine
from drb.rehearsal.exemplars import RoundResult
from drb.rehearsal.handshake import Greeting
from drb.rehearsal.round import RoundRunner
from drb.rehearsal.settings import RehearsalSettings
from drb.variant import name_of

if TYPE_CHECKING:
    from drb.rehearsal.auto_accuracy import AutoAccuracy

INLINE_BYTES = 1 << 20  # gathering less, from memory of this node, takes less time than handing it to a thread


def choose_transport(given: Transport | None, nodes: Sequence[object]) -> tuple[Transport, str]:
    """The transport and the reason, alike on all ranks. given: by the settings; None: auto.

    Raises:
        ValueError: these ranks cannot have the given one.
    """
    num_ranks, num_nodes = len(nodes), len(set(nodes))
    if given is not None:
        given.check()  # also for one rank, since more will need it
    if num_ranks == 1:
        return Loopback(), "exchange loopback (one rank)"
    if given is not None:
        name = name_of(given)
        if given.one_rank:
            raise ValueError(f"exchange={name} serves one rank, there are {num_ranks}; use exchange=auto")
        if given.one_node and num_nodes > 1:
            raise ValueError(
                f"exchange={name} needs all ranks on one node, they are on {num_nodes}; use exchange=auto or "
                "hierarchical"
            )
        return given, f"exchange {name}"
    if num_nodes == 1:
        return Shared(), "exchange shared (auto: all ranks are on one node)"
    if num_ranks > num_nodes:
        return Hierarchical(), f"exchange hierarchical (auto: {num_ranks} ranks on {num_nodes} nodes)"
    return Collective(), f"exchange collective (auto: the ranks are on {num_nodes} nodes)"


def choose_storage(
    settings: RehearsalSettings,
    spec: RecordSpec,
    transport: Transport,
    greetings: Sequence[Greeting],
    rows: Sequence[int],
) -> tuple[bool, str]:
    """Whether the rows lie on the GPUs, and what `describe` says about the choice.

    greetings, rows: of every rank, what it has told and how many rows it is to have.

    Raises:
        ValueError: storage=device or mmap, and that cannot be; alike on all ranks.
    """
    if settings.storage == "host":
        return False, ""
    if settings.storage == "mmap":
        if not transport.in_files:
            raise ValueError(
                f"storage=mmap serves no exchange={name_of(transport)}, whose rows lie in memory of its own: set "
                "exchange=auto"
            )
        return False, f"; storage mmap in {settings.storage_folder}"
    what, advice = _obstacle(spec, transport, greetings)
    if settings.prefilled is not None:
        what, advice = "cannot hold prefilled samples, which are mapped on the host", "set storage=host"
    if settings.storage == "device":
        if what:
            raise ValueError(f"storage=device {what}: {advice}")
        _require_room(greetings, rows, spec.row_bytes)
        return True, ""
    if all(greeting["gpu"] is None for greeting in greetings):
        return False, ""
    if not what and len({greeting["gpu"][0] for greeting in greetings}) > 1:
        what = "has not been tried between GPUs"
    if what:
        return False, f"; storage host (auto: device {what})"
    for gpu, _, needed, free in _by_gpu(greetings, rows, spec.row_bytes):
        if needed > settings.device_share * free:
            would_take = f"device would take {format_bytes(needed)} of GPU {gpu}, {format_bytes(free)} are free"
            return False, f"; storage host (auto: {would_take}, device_share={settings.device_share:g})"
    return True, f"; storage device (auto: at most {settings.device_share:g} of what is free)"


def _obstacle(spec: RecordSpec, transport: Transport, greetings: Sequence[Greeting]) -> tuple[str, str]:
    """Why rows cannot lie on the GPUs, and what to do about it; "" if they can, as far as is known."""
    without = [rank for rank, greeting in enumerate(greetings) if greeting["gpu"] is None]
    if without:
        who = "" if len(greetings) == 1 else f", and ranks [{first_few(without)}] have theirs on the host"
        return f"needs exemplars on a GPU{who}", "give minibatches on a GPU or device="
    num_nodes = len({greeting["node"] for greeting in greetings})
    if num_nodes > 1:
        advice = "set storage=host, whose rows travel between nodes"
        return f"serves the ranks of one node, and they are on {num_nodes}", advice
    if len(greetings) > 1 and not transport.in_shared_memory:
        name = name_of(transport)
        return f"has ranks read each other's rows in GPU memory, not by exchange={name}", "set exchange=auto"
    by_host = fields_of_host(spec)
    if by_host:
        why = "has a codec that encodes on the host" if by_host[0] in spec.encoded else "is optional or grows"
        return f"has the GPU write all fields, and {by_host[0]!r} {why}", "set storage=host"
    return "", ""


def _require_room(greetings: Sequence[Greeting], rows: Sequence[int], row_bytes: int) -> None:
    """Raise ValueError if the ranks of a GPU need more of its memory than is free."""
    for gpu, num_ranks, needed, free in _by_gpu(greetings, rows, row_bytes):
        if needed > free:
            who = "rehearsal buffer needs" if num_ranks == 1 else f"rehearsal buffers of {num_ranks} ranks need"
            raise ValueError(
                f"storage=device: the {who} {format_bytes(needed)} of GPU {gpu}, {format_bytes(free)} are free; lower "
                "the rehearsal's capacity or set storage=host"
            )


def _by_gpu(greetings: Sequence[Greeting], rows: Sequence[int], row_bytes: int) -> Iterator[tuple[str, int, int, int]]:
    """Every GPU, its number of ranks, the bytes that their rows take and those that are free."""
    for gpu in dict.fromkeys(greeting["gpu"][0] for greeting in greetings):
        ranks = [rank for rank, greeting in enumerate(greetings) if greeting["gpu"][0] == gpu]
        free = min(int(greetings[rank]["gpu"][1]) for rank in ranks)
        yield gpu, len(ranks), sum(rows[rank] for rank in ranks) * row_bytes, free


def runs_inline(
    transport: Transport,
    round_bytes: int,
    *,
    has_core: bool,
    has_gpu: bool,
    rows_on_gpu: bool = False,
    counts_strata: bool = False,
    depth: int = 1,
) -> bool:
    """Whether asynchronous="auto" runs rounds on the training thread.

    Short ones, of one rank by itself: those that move few bytes, or gather from rows in the GPU's memory. And those
    with the ranks of a node, if a worker would have no core of its own: it takes more from training than the round,
    which meets in memory (but for counts by stratum, which go by socket).

    round_bytes: that a round gathers. has_core: this rank's node has a core for a worker of each of its ranks.
    rows_on_gpu: the buffer lies there. With rows on the host and a GPU rounds are never inline: a round waits until the
    GPU has gathered what the one before asked for, over the bus, while the training thread should queue work ahead.
    """
    if rows_on_gpu:
        return transport.one_rank
    if round_bytes > INLINE_BYTES or has_gpu:
        return False
    is_short = transport.meets_in_memory and not counts_strata and depth == 1
    return transport.one_rank or (is_short and not has_core)


def choose_engine(
    settings: RehearsalSettings,
    transport: Transport,
    round_bytes: int,
    counts_strata: bool,
    has_core: bool,
    rows_on_gpu: bool,
) -> tuple[Engine[RoundResult], str]:
    """The engine and the reason; the same rounds give the same exemplars on either."""
    if settings.is_auto and settings.epsilon is None:
        return MeasuringEngine(), "rounds asynchronous"
    has_gpu = torch.cuda.is_available()
    is_inline, why = not settings.asynchronous, ""
    if settings.asynchronous == "auto":
        is_inline = runs_inline(
            transport,
            round_bytes,
            has_core=has_core,
            has_gpu=has_gpu,
            rows_on_gpu=rows_on_gpu,
            counts_strata=counts_strata,
            depth=settings.depth,
        )
        why = " (auto)"
        if is_inline:
            why = f" (auto: {_why_inline(transport, rows_on_gpu)})"
    if is_inline:
        return InlineEngine(), f"rounds inline{why}"
    return AsyncEngine(), f"rounds asynchronous{why}"


def choose_exemplars(
    settings: RehearsalSettings,
    most: int,
    exchange: Exchange,
    engine: Engine[RoundResult],
    world_size: int,
    runner: RoundRunner,
) -> AutoExemplars | AutoAccuracy | None:
    """What chooses how many exemplars a round draws; None if the settings do."""
    auto: AutoExemplars | AutoAccuracy | None = None
    if isinstance(engine, MeasuringEngine):
        auto = AutoExemplars(most, exchange, engine, world_size=world_size, min_fill=settings.min_fill)
    elif settings.epsilon is not None:
        from drb.rehearsal.auto_accuracy import AutoAccuracy  # seldom needed

        auto = AutoAccuracy(most, settings.epsilon)
        assert runner.observing is not None, "the settings need feedback"
        runner.observing.observers.append(auto.observe)
    if auto is not None:
        runner.exemplars_of = auto.next
    return auto


def _why_inline(transport: Transport, rows_on_gpu: bool) -> str:
    if rows_on_gpu:
        return "they only queue work of the GPU"
    return "shorter than a hand-off to a thread" if transport.one_rank else "short, and no core is free"


def has_core(greetings: Sequence[Mapping[str, Any]], rank: int) -> bool:
    """Whether this rank's share of its node's cores is more than its training takes."""
    own = greetings[rank]
    ranks = [greeting for greeting in greetings if greeting["node"] == own["node"]]
    cores = [int(greeting["cores"], 16) for greeting in ranks]
    together = functools.reduce(operator.or_, cores).bit_count()
    return bool(min(int(own["cores"], 16).bit_count(), together / len(ranks)) >= own["threads"] + 1)
