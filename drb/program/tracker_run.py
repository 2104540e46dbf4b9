"""Which of the tracker's runs a run logs to: the same one however often it is started again.

A checkpoint knows it. Before the first checkpoint the file `tracking.json` in the run directory does: a run that was
killed that early repeats its first steps, which the tracker then leaves out.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from drb.checkpoint import Saved
from drb.distributed.world import World
from drb.program.config import TrainConfig
from drb.program.config.resume import require_same_config
from drb.program.config.variants import build_variant
from drb.program.summary import write_atomically
from drb.tracking import NullTracker, Tracker, TrackerBuilder, UnknownRunError

_log = logging.getLogger(__name__)
_RECORD = "tracking.json"


def open_tracker_of(config: TrainConfig, run_dir: Path, world: World, saved: Saved | None) -> Tracker:
    """saved: what the run goes on from, if anything; if that is another run's, the tracker's run is a new one."""
    if saved is not None:
        is_own = saved.path.resolve().is_relative_to(run_dir.resolve())
        run_id = saved.facts["tracking_run_id"] if is_own else None
    else:
        run_id = _recorded(config, run_dir) if world.is_main else None
    try:
        tracker = _open(config, run_dir, world, run_id)
    except UnknownRunError as error:
        _log.warning("tracking: %s; from here on it is tracked as a new run", error)
        tracker = _open(config, run_dir, world, None)
    if tracker.run_id is not None:
        write_atomically(run_dir / _RECORD, {"run_id": tracker.run_id, "config": dataclasses.asdict(config)})
    return tracker


def _open(config: TrainConfig, run_dir: Path, world: World, run_id: str | None) -> Tracker:
    if not (config.tracking.enabled and world.is_main):
        return NullTracker()
    builder: TrackerBuilder = build_variant("tracking", config.tracking)
    return builder.open(config.tracking.experiment, config.run_name, run_dir, run_id)


def _recorded(config: TrainConfig, run_dir: Path) -> str | None:
    """The run that an earlier start of the same run made in the same store."""
    if not config.checkpoint.enabled or config.checkpoint.resume != "auto":
        return None
    try:
        record = json.loads((run_dir / _RECORD).read_text())
        require_same_config(record["config"], dataclasses.asdict(config), _RECORD)
        run_id: str = record["run_id"]
        return run_id if record["config"]["tracking"] == dataclasses.asdict(config.tracking) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
