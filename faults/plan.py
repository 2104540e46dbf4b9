"""Which faults, where and when: drawn from a seed.

TARGETS says where in drb a target is, for each exchange if it differs; only this table knows drb's insides.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from typing import Any

# target -> "module:attribute" of what is about to be called, or has just been, when the fault strikes
TARGETS: dict[str, dict[str, str]] = {
    "loader": {"any": "drb.data.loader:TaskLoader.epoch"},  # each minibatch that it yields counts as a call
    "forward": {"any": "drb.training.models.network:Network.forward"},
    "backward": {"any": "torch:Tensor.backward"},
    "index_exchange": {
        "collective": "drb.exchange.requests:RowRequests.ask",
        "shared": "drb.exchange.shared:SharedExchange.gather_counts",
    },
    "row_exchange": {
        "collective": "drb.exchange.collective:CollectiveExchange._gather",
        "shared": "drb.exchange.shared:SharedExchange.fetch",
    },
    "admission": {"any": "drb.buffer.buffer:Buffer.stage"},
    "shard_write": {"any": "drb.checkpoint.writing:write_part"},
    "rename": {"any": "drb.checkpoint.directory:CheckpointDirectory.publish"},
    "decode": {"any": "drb.data.decoding.pool:DecoderPool.decode"},
    "tracking": {"any": "drb.tracking.buffered:BufferedTracker.log_metrics"},
    "import": {"any": "drb.rehearsal.running:Running.load_state_dict"},
    "set_up": {"any": "drb.exchange.shared:SharedExchange.__init__"},
}
PROCESS_TARGETS = tuple(TARGETS)[:8]
PROCESS_KINDS = ("kill", "stop", "memory", "exception")
DAMAGES = ("cut_short", "flipped_byte", "odd_json", "pipe", "other_version", "other_config", "kill_importing")
WRITES = ("shard_write", "rename")


@dataclass(frozen=True)
class Fault:
    """kind strikes rank at the call-th call of target, before or after it. launcher: `hand` starts ranks one by one and
    ends none of them; torchrun may start them again.
    """

    number: int
    kind: str
    target: str
    world_size: int
    rank: int
    call: int
    after: bool
    exchange: str
    asynchronous: bool
    launcher: str = "hand"

    @property
    def name(self) -> str:
        return f"{self.number:02d}-{self.kind}-{self.target}-w{self.world_size}"

    @property
    def place(self) -> str:
        """module:attribute."""
        places = TARGETS[self.target]
        return places.get("any") or places[self.exchange]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def draw_faults(count: int, seed: int) -> list[Fault]:
    """The first 72 have every kind at every target that it can strike, and each target at least five times; from there
    on they are random.
    """
    generator = random.Random(seed)
    pairs = [(kind, target, "hand") for target in PROCESS_TARGETS for kind in PROCESS_KINDS]
    pairs += [("disk_full", target, "hand") for target in WRITES for _ in range(2)]
    pairs += [("unreadable_file", "decode", "hand")] * 3
    pairs += [(damage, "resume", "hand") for damage in DAMAGES for _ in range(2)]
    pairs += [("undeletable", "rename", "hand")] * 2
    pairs += [("server_gone", "tracking", "hand")] * 2
    pairs += [("shm_small", "set_up", "hand")] * 3
    pairs += [(kind, generator.choice(PROCESS_TARGETS), "torchrun") for kind in PROCESS_KINDS]
    pairs += [(generator.choice(PROCESS_KINDS), target, "hand") for target in PROCESS_TARGETS]
    while len(pairs) < count:
        pairs.append((generator.choice(PROCESS_KINDS), generator.choice(PROCESS_TARGETS), "hand"))
    generator.shuffle(pairs)
    return [_draw(number, *pair, generator) for number, pair in enumerate(pairs[:count])]


def _draw(number: int, kind: str, target: str, launcher: str, generator: random.Random) -> Fault:
    if target == "resume":  # the run whose checkpoint is then damaged is killed
        target = "forward"
    world_size = generator.choice((2, 2, 3, 4)) if launcher == "hand" else 2
    rank = 0 if target in ("rename", "tracking") else generator.randrange(world_size)
    if target == "set_up":
        call = 1
    elif target == "tracking":
        call = generator.randint(2, 4)
    elif target in ("rename", "decode"):  # what is decoded in one call is a whole minibatch
        call = generator.randint(2, 10)
    elif target == "shard_write":
        call = generator.randint(2, 10) * (4 if rank == 0 else 1)  # rank 0 writes four parts of each checkpoint
    else:
        call = generator.randint(20, 75)
    return Fault(
        number=number,
        kind=kind,
        target=target,
        world_size=world_size,
        rank=rank,
        call=call,
        after=generator.random() < 0.5 and kind not in ("disk_full", "shm_small", "undeletable", "unreadable_file"),
        exchange="shared" if kind == "shm_small" else generator.choice(("collective", "shared")),
        asynchronous=generator.random() < 0.75,
        launcher=launcher,
    )


def _chosen(
    kind: str, target: str, world_size: int, rank: int, call: int, exchange: str, asynchronous: bool = True
) -> Fault:
    return Fault(0, kind, target, world_size, rank, call, False, exchange, asynchronous)


# the most telling ones, for `make test`
SHORT = [
    replace(fault, number=number)
    for number, fault in enumerate(
        [
            _chosen("stop", "forward", 3, 2, 40, "collective"),
            _chosen("kill", "row_exchange", 3, 1, 33, "shared"),
            _chosen("stop", "shard_write", 2, 0, 24, "shared"),  # rank 0 also holds the store that the ranks meet at
            _chosen("exception", "index_exchange", 2, 1, 50, "collective"),
            _chosen("exception", "row_exchange", 2, 1, 50, "shared", asynchronous=False),
            _chosen("memory", "backward", 2, 1, 30, "shared"),
            _chosen("kill", "rename", 2, 0, 4, "collective"),
            _chosen("disk_full", "rename", 2, 0, 5, "collective"),
            _chosen("flipped_byte", "forward", 2, 1, 45, "shared"),
            _chosen("pipe", "forward", 2, 0, 45, "shared"),
            _chosen("kill_importing", "forward", 2, 1, 45, "collective"),
            _chosen("undeletable", "rename", 2, 0, 4, "shared"),
            _chosen("shm_small", "set_up", 2, 0, 1, "shared"),
        ]
    )
]
