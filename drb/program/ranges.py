"""Named ranges in a profile: `torch.profiler.record_function` and, where CUDA is present, NVTX.

The code that is profiled knows nothing of it, so that it costs nothing: while `named_ranges` is open, the methods of
the table below are wrapped in a range.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import record_function

from drb.buffer.buffer import Buffer
from drb.exchange import Peers
from drb.exchange.collective import CollectiveExchange
from drb.exchange.hierarchical import HierarchicalExchange
from drb.exchange.loopback import LoopbackExchange
from drb.exchange.rma import RmaExchange
from drb.exchange.shared import SharedExchange
from drb.rehearsal.cuda import DeviceExtension, DeviceIntake, RowLauncher
from drb.rehearsal.intake import Intake
from drb.rehearsal.output import Extension
from drb.rehearsal.pipeline import Pipeline
from drb.rehearsal.rehearsal import Rehearsal
from drb.rehearsal.round import RoundRunner
from drb.sampling.sampler import Sampler
from drb.training.augment import Preprocess
from drb.training.batches import Batches
from drb.training.learner import Learner
from drb.training.reporting.breakdown import TimedLoader

_EXCHANGES = (LoopbackExchange, SharedExchange, CollectiveExchange, HierarchicalExchange, RmaExchange)
RANGES: tuple[tuple[type, str, str], ...] = (
    (TimedLoader, "__next__", "drb/load"),
    (Rehearsal, "extend", "drb/extend"),
    (Rehearsal, "step", "drb/step"),
    (Intake, "take", "drb/extend: admission (keys)"),
    (Pipeline, "take", "drb/extend: wait"),
    (Buffer, "commit", "drb/extend: admission (commit)"),
    (Buffer, "stage", "drb/extend: admission (stage)"),
    (Extension, "extend", "drb/extend: copy"),
    (DeviceExtension, "extend", "drb/extend: copy"),
    (DeviceIntake, "settle", "drb/extend: admission (from the device)"),
    (RowLauncher, "launch", "drb/extend: launch"),
    (Batches, "_to_device", "drb/to device"),
    (Preprocess, "train", "drb/train: augment"),
    (Learner, "backward", "drb/train: forward and backward"),
    (Learner, "step", "drb/train: optimizer"),
    (RoundRunner, "_run", "drb/round"),
    (Sampler, "draw", "drb/round: draw"),
    *((exchange, "gather_counts", "drb/round: announce") for exchange in _EXCHANGES),
    *((exchange, "fetch", "drb/round: fetch") for exchange in _EXCHANGES),
)
"""Class, method, range. Inside announce and fetch, every collective has one of its own, `drb/exchange: rows` say."""


@contextlib.contextmanager
def named_ranges() -> Iterator[None]:
    """Until this ends, drb's parts show in whatever profiler is running. For the whole process; not to be nested."""
    originals = [(owner, method, vars(owner)[method]) for owner, method, _ in RANGES]
    originals.append((Peers, "run", Peers.run))
    for owner, method, name in RANGES:
        setattr(owner, method, _in_range(vars(owner)[method], name))
    setattr(Peers, "run", _by_operation(Peers.run))  # noqa: B010  mypy forbids the plain assignment
    try:
        yield
    finally:
        for owner, method, original in originals:
            setattr(owner, method, original)


def _in_range(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _range(name):
            return function(*args, **kwargs)

    return call


def _by_operation(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def call(peers: Peers, operation: str, collective: Callable[[], Any]) -> Any:
        with _range(f"drb/exchange: {operation}"):
            return run(peers, operation, collective)

    return call


@contextlib.contextmanager
def _range(name: str) -> Iterator[None]:
    with record_function(name):
        if not torch.cuda.is_available():
            yield
            return
        with torch.cuda.nvtx.range(name):
            yield
