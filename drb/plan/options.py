"""What a command line of `drb plan` says, and what it leaves to be asked."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from drb.buffer.capacity import UNITS

T = TypeVar("T")

HELP = """\
drb plan: whether rounds of rehearsal stay hidden, what they cost, and what memory they take.

    torchrun --nproc-per-node=N -m drb.plan [key=value ...]     measure on these ranks (also mpirun, srun)
    drb plan --simulate [key=value ...]                         calculate, for up to 4096 ranks

Settings are those of `drb train`: training.batch_size (b), rehearsal.exemplars (r), rehearsal.capacity (M),
rehearsal.candidates (c), rehearsal.exchange, dataset and model (the record, and what a step takes).

    --seconds S        of measuring (20)
    --step T           of a training step on b rows, such as 85ms; otherwise the configured network is measured
    --json FILE        write the answers, and what was measured
    --measured FILE    with --simulate: what messages and memory cost, from the --json of a probe

with --simulate:
    --ranks A,B,...    numbers of ranks (1,2,4,...,4096)
    --per-node L       ranks of a node (8)
    --record BYTES     of one sample, instead of the dataset's
    --latency T        of the network, one way (2us)
    --bandwidth B      of a node's network, per second (12.5GB)
"""


@dataclass(frozen=True)
class Options:
    """Times in seconds, sizes in bytes; None: not given."""

    simulate: bool
    seconds: float
    step_s: float | None
    json: Path | None
    measured: Path | None
    ranks: tuple[int, ...]
    per_node: int
    record_bytes: int | None
    latency_s: float | None
    bandwidth: float | None
    settings: tuple[str, ...]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see drb plan --help")


def parse_options(arguments: Sequence[str]) -> Options:
    """Raises:
    ValueError: one sentence.
    """
    parser = _Parser(prog="drb plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--seconds", default="20")
    for name in ("step", "json", "measured", "ranks", "per-node", "record", "latency", "bandwidth"):
        parser.add_argument(f"--{name}")
    given, settings = parser.parse_known_args(list(arguments))
    for setting in settings:
        if setting.startswith("-") or "=" not in setting:
            raise ValueError(f"{setting} is neither an option nor key=value; see drb plan --help")
    only_simulated = ("measured", "ranks", "per_node", "record", "latency", "bandwidth")
    for name in only_simulated:
        if getattr(given, name) is not None and not given.simulate:
            raise ValueError(f"--{name.replace('_', '-')} needs --simulate: without it this machine is measured")
    return Options(
        simulate=given.simulate,
        seconds=_given("--seconds", given.seconds, seconds_of) or 20.0,
        step_s=_given("--step", given.step, seconds_of),
        json=None if given.json is None else Path(given.json),
        measured=None if given.measured is None else Path(given.measured),
        ranks=_given("--ranks", given.ranks, _ranks_of) or tuple(2**i for i in range(13)),
        per_node=_given("--per-node", given.per_node, _count_of) or 8,
        record_bytes=_given("--record", given.record, lambda text: int(bytes_of(text))),
        latency_s=_given("--latency", given.latency, seconds_of),
        bandwidth=_given("--bandwidth", given.bandwidth, bytes_of),
        settings=tuple(settings),
    )


def ask_for_step(batch_size: int) -> float:
    """Seconds of a step, from the user. Raises ValueError where there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ValueError("drb plan --simulate needs --step, the time of a training step on b rows, such as --step 85ms")
    print(f"time of a training step on {batch_size} rows, without rehearsal (such as 85ms): ", end="", file=sys.stderr)
    sys.stderr.flush()
    return seconds_of(sys.stdin.readline().strip())


def seconds_of(text: str) -> float:
    """Of "85ms", "2us", "1.5s" or "0.085"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(s|ms|us|µs)?", text)
    if match is None or not float(match[1]) > 0:
        raise ValueError(f"must be a time such as 85ms, 2us or 1.5s, got {text!r}")
    return float(match[1]) * {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}[match[2] or "s"]


def bytes_of(text: str) -> float:
    """Of "150528", "150KB" or "12.5GB" (perhaps with /s)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?(?:/s)?", text)
    if match is None or not float(match[1]) > 0:
        raise ValueError(f"must be an amount of bytes such as 150528, 1.5MiB or 12.5GB, got {text!r}")
    return float(match[1]) * UNITS[match[2] or "B"]


def _given(name: str, text: str | None, read: Callable[[str], T]) -> T | None:
    """What the option says, read; its error begins with its name."""
    if text is None:
        return None
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _ranks_of(text: str) -> tuple[int, ...]:
    return tuple(_count_of(part) for part in text.split(","))


def _count_of(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65536:
        raise ValueError(f"must be a number from 1 to 65536, got {text!r}")
    return int(text)
