"""`mix.json` in the directory of a run that mixes sources: what `drb audit` answers from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drb.data.datasets import Dataset
from drb.data.mix.following import begin
from drb.data.mix.mix import Mix
from drb.data.mix.state import mix_from, state_of
from drb.data.mix.timeline import Pace
from drb.data.mixed_loader import wanted
from drb.data.scenarios import build_scenario
from drb.data.scenarios.task import EpochShare
from drb.program.config import TrainConfig
from drb.program.config.variants import build_variant
from drb.program.summary import write_atomically
from drb.runs.ledger import LEDGER_FILE
from drb.training import Trainer
from drb.training.state.resume import loader_seed


def write_ledger(run_dir: Path, config: TrainConfig, dataset: Dataset, trainer: Trainer) -> None:
    """Write what the rest of a run trains on, or go on with what is there; nothing for a run that mixes no sources.

    Steps after the one that the run goes on from are cut: they are trained anew.
    """
    scenario = build_scenario(build_variant("scenario", config.scenario), dataset, seed=config.seed)
    shares = next(iter(scenario)).mix
    if not shares:
        return
    length = sum(share.per_epoch for share in shares)
    rows = trainer.rows_per_step
    mix = _known(run_dir / LEDGER_FILE) if trainer.steps else None
    if mix is None:
        mix = begin(wanted(shares), rows, loader_seed(config.seed, 0), epoch=length)
    _go_on(mix, trainer.steps, rows, length)
    write_atomically(run_dir / LEDGER_FILE, {"mix": state_of(mix), "origins": _origins(dataset, shares)})


def _known(path: Path) -> Mix | None:
    """What an earlier start of the run wrote; None if that is lost, and the order is taken for that of one start."""
    try:
        return mix_from(json.loads(path.read_text(encoding="utf-8"))["mix"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _go_on(mix: Mix, step: int, rows: int, length: int) -> None:
    """From a step on, steps have so many rows, and are short at the end of each epoch of `length`."""
    paces = [pace for pace in mix.timeline.paces if pace.step < step or pace.step == 0]
    mix.timeline.paces = paces
    if paces[-1].batch == rows or not step:
        return
    start = mix.start_of(step)
    left = -start % length
    if left:
        paces.append(Pace(step, start, rows, left))
    paces.append(Pace(step - (-left // rows), start + left, rows, length))


def _origins(dataset: Dataset, shares: tuple[EpochShare, ...]) -> dict[str, Any]:
    """Where the samples of each source are from: names and numbers of samples, one behind the other."""
    arrivals = [[arrival.name, arrival.num_train] for arrival in dataset.arrivals]
    is_whole = [count for _, count in arrivals[-1:]] == [shares[0].count]
    return {"new": arrivals[-1:], "base": arrivals[:-1]} if is_whole else {}
