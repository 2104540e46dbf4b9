"""What ranks tell each other before a rehearsal is put together, so that one that differs is named at once.

Every rank tells the others its settings, schema, node, capacity, and what its machine has. From these *greetings* all
ranks choose the same exchange and come to the same conclusions, so that none waits for one that has given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import torch

from drb.buffer.record import RecordSpec
from drb.data.sampler_order import Shard, require_one_division
from drb.distributed.failure import first_few
from drb.exchange import Peers, Transport
from drb.machine import usable_cores
from drb.rehearsal.exemplars import UnevenError
from drb.rehearsal.settings import RehearsalSettings, require_agreement
from drb.rehearsal.state.origin import require_one_moment
from drb.variant import name_of

Greeting: TypeAlias = dict[str, Any]


def greet(
    peers: Peers | None,
    settings: RehearsalSettings,
    spec: RecordSpec,
    *,
    capacity: int,
    max_rows: int,
    node: str,
    free: dict[str, int],
    gpu: tuple[str, int] | None,
    start: str = "",
    resumed: tuple[str, int] = ("", -1),
    shard: Shard | None = None,
    prefilled: tuple[str, str] = ("", ""),
) -> list[Greeting]:
    """Every rank's greeting, by rank. Collective over peers (None: one rank).

    Args:
        capacity: exemplars that this rank may hold. max_rows: of its minibatches, 0 if it does not know yet.
        free: bytes that it sees free, as `drb.rehearsal.memory.free_memory`.
        gpu: on which its exemplars are wanted, by name, and bytes that are free there; None: on the host.
        start: what its run begins with. resumed: the run and step of the state that it goes on from; "" and -1: none.
        shard: of the sampler that gave its first minibatch.
        prefilled: what samples it has mapped, and why it could not; "" each for none.
    Raises:
        ValueError: ranks differ in their settings or schema, their samplers overlap, or they go on from states that do
            not belong together.
        UnevenError: a rank has ended.
    """
    mine = {
        "finished": False,
        "settings": settings.shared_by_all(),
        "schema": {name: str(field) for name, field in spec.fields.items()},
        "node": node,
        "capacity": capacity,
        "max_rows": max_rows,
        "gpu": gpu,
        "free": free,
        "cores": format(sum(1 << core for core in usable_cores()), "x"),
        "threads": torch.get_num_threads(),
        "start": start,
        "resumed": [resumed[0], int(resumed[1])],
        "shard": None if shard is None else asdict(shard),
        "prefilled": prefilled[0],
    }
    if peers is None:
        if prefilled[1]:
            raise ValueError(prefilled[1])
        return [mine]
    mine["problem"] = prefilled[1]
    greetings = peers.gather_json(mine, "settings")
    _require_started(greetings)
    require_agreement([greeting["settings"] for greeting in greetings], "setting")
    for problem in filter(None, (greeting["problem"] for greeting in greetings)):
        raise ValueError(problem)
    require_agreement(
        [{"prefilled": greeting["prefilled"]} for greeting in greetings],
        "the samples of",
        "give every node a folder that was filled from the same data, and from which the same samples were erased",
    )
    require_agreement(
        [greeting["schema"] for greeting in greetings],
        "the record's field",
        "a record has one shape: pad samples to the same length on all ranks, or give the schema as spec=",
    )
    require_one_division([None if greeting["shard"] is None else Shard(**greeting["shard"]) for greeting in greetings])
    require_one_moment([greeting["resumed"] for greeting in greetings])
    return greetings


def greet_finished(peers: Peers) -> None:
    """Tell the others, who wait in `greet`, that this rank ends before its first minibatch. Collective."""
    _require_started(peers.gather_json({"finished": True}, "settings"))


def require_devices(transport: Transport, greetings: Sequence[Greeting]) -> None:
    """Raise ValueError if the exchange takes rows from GPU to GPU and some rank's exemplars are on the host."""
    without = [rank for rank, greeting in enumerate(greetings) if greeting["gpu"] is None]
    if transport.from_gpu_to_gpu and without:
        raise ValueError(
            f"exchange={name_of(transport)} takes rows from GPU to GPU, but ranks [{first_few(without)}] have their "
            "exemplars on the host: give minibatches on a GPU or device=, or set exchange=auto"
        )


def most_exemplars_of_all(settings: RehearsalSettings, greetings: Sequence[Greeting]) -> int:
    """The most exemplars of a step, alike on all ranks.

    With exemplars=auto that is the limit of the rank with the smallest minibatches, and no more than are ever stored.
    """
    if isinstance(settings.exemplars, int):
        return settings.exemplars
    smallest = min(greeting["max_rows"] for greeting in greetings if greeting["max_rows"])
    return int(min(settings.most_exemplars(smallest), sum(greeting["capacity"] for greeting in greetings)))


def _require_started(greetings: Sequence[Greeting]) -> None:
    finished = [rank for rank, greeting in enumerate(greetings) if greeting["finished"]]
    if finished and len(finished) < len(greetings):
        raise UnevenError(
            f"ranks [{first_few(finished)}] stopped before their first minibatch while the others have data"
        )
