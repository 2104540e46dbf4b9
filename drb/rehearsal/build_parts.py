"""Builds the parts of a rehearsal, once the first minibatch has shown what a record is.

`PartsFactory` makes the single parts; a subclass may put others in their place. `build_parts` puts them together.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drb.buffer.editing import EditableBuffer
from drb.buffer.expiry import Expiry, MaxAge
from drb.buffer.positions import PositionTable
from drb.buffer.record import RecordSpec
from drb.buffer.storage.device import HEADER_BYTES, DeviceRows
from drb.data.sampler_order import Shard
from drb.exchange import Exchange, Peers, Sizes, Transport
from drb.exchange.loopback import Loopback, LoopbackExchange
from drb.machine import node_name
from drb.rehearsal.auto import choose_engine, choose_exemplars, choose_storage, choose_transport, has_core
from drb.rehearsal.cuda import Device, DeviceRing, DeviceSide, NcclExchange, RowLauncher
from drb.rehearsal.delivery import Delivery, allocate_blocks, deliver_on_host
from drb.rehearsal.handshake import greet, most_exemplars_of_all, require_devices
from drb.rehearsal.memory import free_memory, own_capacity, require_room_for_buffers, rows_of_ranks
from drb.rehearsal.parts import Parts
from drb.rehearsal.round import RoundRunner
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.origin import Origin
from drb.sampling.proportions import Proportions
from drb.sampling.sampler import Sampler
from drb.types import Int64Array
from drb.variant import fresh

if TYPE_CHECKING:
    from drb.rehearsal.observing import Observing  # seldom needed
    from drb.rehearsal.prefilled import Prefilled


class PartsFactory:
    """Builds the parts as the settings say. `Rehearsal` has one; a test's subclass of it may have another."""

    def node(self) -> str:
        """The name of this rank's node: ranks of one node share memory."""
        return node_name()

    def free_memory(self) -> dict[str, int]:
        """See `drb.rehearsal.memory.free_memory`."""
        return free_memory()

    def exchange(self, transport: Transport, peers: Peers | None, nodes: Sequence[str], sizes: Sizes) -> Exchange:
        """The exchange of this transport. Collective over peers (None: one rank)."""
        return Loopback().open(None, nodes, sizes) if peers is None else transport.open(peers, nodes, sizes)

    def exchange_on(self, device: Device, peers: Peers | None, sizes: Sizes) -> Exchange:
        """The exchange of ranks of one node whose rows lie in their devices' memory. Collective over peers."""
        if peers is not None:
            from drb.rehearsal.cuda.device_exchange import DeviceExchange  # seldom needed

            return DeviceExchange(peers, sizes, device)
        num_rows = int(sizes.rows[0])
        return LoopbackExchange(num_rows, sizes.words, DeviceRows(device, num_rows, sizes.words))

    def buffer(
        self, settings: RehearsalSettings, spec: RecordSpec, capacity: int, rows: Int64Array, rank: int
    ) -> EditableBuffer:
        """This rank's buffer, whose records lie in `rows`."""
        admission = settings.new_admission(rank)
        expiry = None if settings.max_age is None else Expiry(MaxAge.parse(settings.max_age))
        return EditableBuffer(spec, capacity, rows, admission, expiry=expiry)

    def sampler(self, settings: RehearsalSettings, exemplars: int, proportions: Proportions, rank: int) -> Sampler:
        """What draws this rank's exemplars."""
        return Sampler(exemplars, proportions, seed=settings.seed, rank=rank, min_fill=settings.min_fill)

    def delivery(
        self, transport: Transport, side: DeviceSide | None, exchange: Exchange, peers: Peers | None, blocks: Int64Array
    ) -> Delivery:
        """What takes rows that this transport's exchange fetches to the device. side: None if they stay on the host."""
        if side is None:
            return deliver_on_host(exchange, blocks)
        if transport.from_gpu_to_gpu:
            assert peers is not None
            assert isinstance(exchange, NcclExchange), "the one exchange whose rows are launched"
            return RowLauncher(side, exchange, side.device.open_rows(peers), blocks)
        return DeviceRing(side, exchange, blocks)


def build_parts(
    settings: RehearsalSettings,
    spec: RecordSpec,
    max_rows: int,
    peers: Peers | None,
    device: Device | None = None,
    factory: PartsFactory | None = None,
    *,
    origin: Origin | None = None,
    start: str = "",
    saved: Mapping[str, Any] | None = None,
    shard: Shard | None = None,
    denied: Int64Array | None = None,
) -> Parts | None:
    """Build the parts. Collective over `peers` (None: one rank).

    Args:
        max_rows: of this rank's minibatches; 0 if it does not know yet and takes the others' largest.
        device: where exemplars are wanted; None: on the host.
        origin: this rank's. start: what its run begins with (`start_of`). saved: the state that it goes on from.
        shard: of the sampler that gave the first minibatch. denied: ids that are never drawn, int64.
    Returns:
        None if nobody knows how many rows a minibatch has.
    Raises:
        ValueError: the ranks differ, or cannot have what the settings say; on all ranks, before anything is allocated.
    """
    factory = factory or PartsFactory()
    rank, world_size = (peers.rank, peers.world_size) if peers else (0, 1)
    capacity = own_capacity(settings, spec, rank, world_size)
    prefilled, problem = _open_prefilled(settings, spec, denied)
    greetings = greet(
        peers,
        settings,
        spec,
        capacity=capacity,
        max_rows=max_rows,
        node=factory.node(),
        free=factory.free_memory(),
        gpu=None if device is None else (device.identity, device.free_bytes()),
        start=start,
        resumed=((saved or {}).get("run", ""), (saved or {}).get("round", -1)),
        shard=shard,
        prefilled=("" if prefilled is None else prefilled.fingerprint, problem),
    )
    max_rows = max_rows or max(greeting["max_rows"] for greeting in greetings)
    if not max_rows:
        return None
    nodes, capacities = [g["node"] for g in greetings], np.array([g["capacity"] for g in greetings])
    transport, why = choose_transport(settings.transport, nodes)
    require_devices(transport, greetings)
    if prefilled is not None and transport.from_gpu_to_gpu:
        raise ValueError(f"exchange={transport.name} takes rows from GPU to GPU, and prefilled ones lie on the host")
    if device is not None:
        require_device_codecs(spec)
    per_draw, draws = most_exemplars_of_all(settings, greetings), settings.draws
    exemplars, depth, interval = draws * per_draw, settings.depth, settings.interval
    rows = rows_of_ranks(greetings, depth, interval)
    on_device, storage_why = choose_storage(settings, spec, transport, greetings, rows)
    most = int(capacities.sum()) + (0 if prefilled is None else prefilled.size)
    if settings.min_fill > most:
        raise ValueError(
            f"min_fill={settings.min_fill} is more than all buffers hold: {most} exemplars; nothing would ever be "
            "rehearsed"
        )
    folder = None if settings.storage_folder is None else str(Path(settings.storage_folder).expanduser().absolute())
    sizes = Sizes(capacities, np.array(rows), spec.words, exemplars, interval * exemplars, depth + 1, folder)
    folder_lock = None
    if folder is not None:
        from drb.rehearsal.storage_folder import claim_folder  # seldom needed

        folder_lock = claim_folder(folder, greetings, peers)
    exchange = None
    require_room = functools.partial(
        require_room_for_buffers, greetings, transport, spec, exemplars, depth, interval, settings.policy
    )
    if on_device:
        assert device is not None
        require_room(HEADER_BYTES)
        try:
            exchange = factory.exchange_on(device, peers, sizes)
        except ValueError as error:  # alike on all ranks
            if settings.storage == "device":
                raise ValueError(f"storage=device: {error}; or set storage=host") from None
            storage_why = f"; storage host (auto: {error})"
    if exchange is None:
        require_room(None if folder is None else 0)
        exchange = factory.exchange(transport, peers, nodes, sizes)
    if prefilled is not None:
        exchange = prefilled.beside(exchange, world_size)
    buffer = factory.buffer(settings, spec, capacity, exchange.rows, rank)
    if prefilled is not None:
        buffer.leave_out(prefilled.sorted_ids)
    proportions = fresh(settings.shares)  # what it learns is this rehearsal's
    blocks = allocate_blocks(sizes.num_blocks, sizes.at_once, spec.words)
    side = None
    if device is not None:
        places = (depth + 1) * interval
        has_peers, counted_by = peers is not None, settings.stratum
        side = DeviceSide(
            device,
            spec,
            exchange,
            max_rows,
            places,
            has_peers=has_peers,
            counted_by=counted_by,
            in_files=folder is not None,
        )
    delivery = factory.delivery(transport, side, exchange, peers, blocks)
    runner = RoundRunner(
        PositionTable(capacity, by_stratum=proportions.needs_strata),
        exchange,
        factory.sampler(settings, per_draw, proportions, rank),
        delivery,
        rank=rank,
        world_size=world_size,
        count_strata=proportions.needs_strata,
        interval=interval,
        draws=draws,
        peers=peers,
        prefilled=prefilled,
        observing=_observing(settings, proportions, sizes.at_once),
        importance=settings.importance,
    )
    if peers is not None:
        from drb.rehearsal.divisions import Divisions  # not needed by one rank

        runner.divisions = Divisions(peers)
    engine, engine_why = choose_engine(
        settings,
        transport,
        sizes.at_once * spec.row_bytes,
        proportions.needs_strata,
        has_core(greetings, rank),
        rows_on_gpu=side is not None and side.rows is not None,
    )
    auto = choose_exemplars(settings, exemplars, exchange, engine, world_size, runner)
    return Parts(
        spec,
        buffer,
        exchange,
        runner,
        engine,
        proportions,
        capacities,
        max_rows,
        exemplars,
        depth,
        interval,
        f"{why}; {engine_why}{_ahead(depth, interval)}{'' if side is None else f'; {side.describe()}'}" + storage_why,
        settings.needs_offered,
        delivery if isinstance(delivery, DeviceRing | RowLauncher) else None,
        auto,
        (origin or Origin(rank, world_size)).began(saved or {}, [greeting["start"] for greeting in greetings]),
        prefilled,
        folder,
        folder_lock,
    )


def _open_prefilled(
    settings: RehearsalSettings, spec: RecordSpec, denied: Int64Array | None
) -> tuple[Prefilled | None, str]:
    """The samples that the settings name, if any, without denied ones; and why they cannot be had, "" if they can."""
    if settings.prefilled is None:
        return None, ""
    from drb.rehearsal.prefilled import Prefilled

    try:
        prefilled = Prefilled(settings.prefilled, spec, settings)
    except ValueError as error:
        return None, str(error)
    if denied is not None and len(denied):
        prefilled.drop(denied)
    return prefilled, ""


def _observing(settings: RehearsalSettings, proportions: Proportions, most_rows: int) -> Observing | None:
    """What tells of feedback who learns from it; None if nobody does."""
    if not settings.needs_feedback:
        return None
    from drb.rehearsal.observing import Observing

    observers = [proportions.observe] if proportions.needs_feedback else []
    return Observing(most_rows, *observers, needs_correct=settings.needs_correct)


def _ahead(depth: int, interval: int) -> str:
    """What describe() says of rounds that are not one per step, one at a time."""
    every = f", every {interval} steps" if interval > 1 else ""
    return every + (f", {depth} in flight" if depth > 1 else "")


def require_device_codecs(spec: RecordSpec) -> None:
    """Raise ValueError if exemplars are wanted on a device and some field can be decoded on the CPU only."""
    for name in spec.encoded:
        codec = spec.fields[name].codec
        if codec is not None and codec.on_host:
            raise ValueError(
                f"field {name!r} is stored by {codec}, which decodes on the CPU only: leave device= out and move what "
                "is returned, or use another codec such as bits"
            )
