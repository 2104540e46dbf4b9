"""What is to be said of a job: whether its rounds stay hidden, what they cost, what memory they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drb.machine import readable
from drb.plan.model import Machine, Place, cpu_seconds, exchange_bytes, round_seconds, traffic
from drb.rehearsal.auto import choose_exchange, runs_inline
from drb.rehearsal.auto_exemplars import SHARE, Line, is_hidden, largest_hidden
from drb.rehearsal.parts import memory_bytes


@dataclass(frozen=True)
class Job:
    """b = batch_size and r = exemplars per rank and step; candidates: rows stored per step; capacity per rank.

    depth: rounds in flight; interval: steps that a round serves; asynchronous: whether beside the training thread.
    counts_strata, counts_offers: as proportions=balanced and stream need. threads: that train, of a rank.
    """

    batch_size: int
    exemplars: int
    candidates: int
    capacity: int
    row_bytes: int
    exchange: str = "auto"
    depth: int = 1
    interval: int = 1
    asynchronous: bool | str = "auto"
    counts_strata: bool = False
    counts_offers: bool = False
    threads: int = 1
    has_gpu: bool = False

    def rows_of_round(self, exemplars: int) -> int:
        return self.interval * exemplars


@dataclass(frozen=True)
class Forecast:
    """Of one rank. Seconds and bytes; most_hidden: the largest r up to b that stays hidden, 0 if none.

    inline: rounds run on the training thread (see `drb.rehearsal.auto`), where none is hidden.
    slowdown: of a step on b + r rows, by what of the round is not hidden and by copies on the training thread.
    round_s, messages, sent_bytes: of a round, which serves `interval` steps; it is hidden if it ends within them.
    cpu_s: of the rounds, per step, beside the training.
    """

    ranks: int
    nodes: int
    exchange: str
    interval: int
    step_s: float
    round_s: float
    cpu_s: float
    copy_s: float
    inline: bool
    hidden: bool
    slowdown: float
    most_hidden: int
    messages: int
    sent_bytes: float
    memory: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def forecast(job: Job, place: Place, machine: Machine, step: Line, measured_round: Line | None = None) -> Forecast:
    """measured_round: by r, where it was measured on these very ranks; otherwise the model's."""
    kind, _ = choose_exchange(job.exchange, place.names)
    rows = job.rows_of_round(job.exemplars)
    sent = traffic(kind, place, rows, job.row_bytes)
    most = max(job.batch_size, job.exemplars)
    line = measured_round or _line(job, kind, place, machine, most)
    round_s, step_s = line.at(job.exemplars), step.at(job.exemplars)
    steps = Line(job.interval * step.start, job.interval * step.slope)
    copied_rows = job.candidates + job.batch_size + job.exemplars  # admitted, and those of the extended minibatch
    copy_s = copied_rows * job.row_bytes / machine.clock.gather_speed
    words = job.row_bytes // 8
    inline = _is_inline(job, kind, place, machine)
    exposed_s = round_s / job.interval if inline else max(0.0, round_s / job.interval - step_s)
    staging = exchange_bytes(kind, place, rows, words, job.capacity)
    return Forecast(
        ranks=place.world_size,
        nodes=place.nodes,
        exchange=kind,
        interval=job.interval,
        step_s=step_s,
        round_s=round_s,
        cpu_s=cpu_seconds(sent, machine, place.of_node) / job.interval,
        copy_s=copy_s,
        inline=inline,
        hidden=not inline and is_hidden(job.exemplars, line, steps),
        slowdown=(exposed_s + copy_s) / step_s,
        most_hidden=largest_hidden(line, steps, most),
        messages=sent.messages,
        sent_bytes=sent.sent_bytes,
        memory=memory_bytes(
            job.row_bytes,
            job.capacity,
            job.batch_size,
            job.exemplars,
            staging,
            job.depth,
            job.interval,
            counts_offers=job.counts_offers,
        ),
    )


def _is_inline(job: Job, kind: str, place: Place, machine: Machine) -> bool:
    if job.asynchronous != "auto":
        return not job.asynchronous
    return runs_inline(
        kind,
        job.rows_of_round(job.exemplars) * job.row_bytes,
        has_core=machine.cores >= place.of_node * (1 + job.threads),
        has_gpu=job.has_gpu,
        counts_strata=job.counts_strata,
        depth=job.depth,
    )


def verdict(job: Job, told: Forecast) -> str:
    """A few plain sentences about one forecast."""
    share = told.round_s / told.step_s / told.interval
    served = "a step" if told.interval == 1 else f"{told.interval} steps"
    ranks = "1 rank" if told.ranks == 1 else f"{told.ranks} ranks on {_count(told.nodes, 'node')}"
    state = _state(told, share, served)
    memory = ", ".join(f"{name} {readable(amount)}" for name, amount in told.memory.items())
    sent = f"{told.messages} messages, {readable(told.sent_bytes)} sent" if told.messages else "nothing is sent"
    if told.most_hidden == 0:
        largest = "not even 1 exemplar would stay hidden"
    else:
        limit = " (more than a minibatch was not looked at)" if told.most_hidden >= job.batch_size else ""
        largest = (
            f"largest r that stays hidden{' (asynchronous=true)' if told.inline else ''}: {told.most_hidden}{limit}"
        )
    return (
        f"{ranks}, exchange {told.exchange}: rounds of {job.rows_of_round(job.exemplars)} exemplars {state}\n"
        f"  round    {_time(told.round_s)}, {share:.0%} of {served} of {_time(told.step_s)} on {job.batch_size} + "
        f"{job.exemplars} rows; {sent}\n"
        f"  cost     {_cost(told)}\n"
        f"  r        {largest}\n"
        f"  memory   {readable(sum(told.memory.values()))} per rank at most ({memory})"
    )


def _cost(told: Forecast) -> str:
    longer, copies = f"steps {told.slowdown:.1%} longer", f"{_time(told.copy_s)} of copies"
    if told.inline:
        return f"{longer} ({_time(told.round_s / told.interval)} of rounds and {copies})"
    return f"{longer} ({copies} on the training thread); {_time(told.cpu_s)} of CPU per step beside it"


def _state(told: Forecast, share: float, served: str) -> str:
    if told.inline:
        return "run on the training thread"
    if told.hidden:
        return "stay hidden"
    return "are NOT hidden" if share > 1 else f"are too close to {served} ({SHARE:.0%})"


_HEAD = (
    "ranks",
    "nodes",
    "exchange",
    "step",
    "round",
    "CPU",
    "hidden",
    "slower",
    "largest r",
    "messages",
    "sent",
    "memory",
)


def table(forecasts: Sequence[Forecast]) -> str:
    """One line per world size, in plain text."""
    lines = [_HEAD, *(_row(told) for told in forecasts)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _row(told: Forecast) -> tuple[str, ...]:
    return (
        str(told.ranks),
        str(told.nodes),
        told.exchange,
        _time(told.step_s),
        _time(told.round_s),
        _time(told.cpu_s),
        "inline" if told.inline else "yes" if told.hidden else "no",
        f"{told.slowdown:.1%}",
        str(told.most_hidden),
        str(told.messages),
        readable(told.sent_bytes),
        readable(sum(told.memory.values())),
    )


def _line(job: Job, kind: str, place: Place, machine: Machine, most: int) -> Line:
    """A round as a function of r: through the configured r, so that it is exact there, and another."""
    other = most if most > job.exemplars else 1
    low, high = sorted((job.exemplars, other))
    points = [
        (r, round_seconds(traffic(kind, place, job.rows_of_round(r), job.row_bytes), machine, place.of_node))
        for r in (low, high)
    ]
    return Line.through(points[0], points[1])


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _time(value: float) -> str:
    """As 1.5 ms."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
