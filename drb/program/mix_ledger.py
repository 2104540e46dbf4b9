"""`mix.json` in the directory of a run that mixes sources: what `drb audit` answers from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from drb.data.datasets import Dataset
from drb.data.mix.mix import Mix
from drb.data.mix.state import mix_from, state_of
from drb.data.mix.timeline import Pace
from drb.data.scenarios import build_scenario
from drb.program.config import TrainConfig
from drb.program.config.variants import build_variant
from drb.program.summary import write_atomically
from drb.runs.ledger import LEDGER_FILE
from drb.training import Trainer
from drb.training.state.resume import loader_seed

_log = logging.getLogger(__name__)


def write_ledger(run_dir: Path, config: TrainConfig, dataset: Dataset, trainer: Trainer) -> None:
    """Write what the rest of a run trains on, or go on with what is there; nothing for a run that mixes no sources.

    Steps after the one that the run goes on from are cut: they are trained anew. If what an earlier start wrote is
    missing, damaged or of other samples, the file says so (`lost`: the step that the run went on from), and `drb audit`
    refuses to answer: how many rows each earlier step had is not known.
    """
    scenario = build_scenario(build_variant("scenario", config.scenario), dataset, seed=config.seed)
    asked = next(iter(scenario)).mix
    path, lost = run_dir / LEDGER_FILE, 0
    if asked is None:
        path.unlink(missing_ok=True)  # of another run, in whose directory this one was started anew
        return
    rows = trainer.rows_per_step
    mix = asked.begin(rows, loader_seed(config.seed, 0))
    if trainer.steps:
        known = _known(path)
        if known is not None and _has_same_past(known, mix, trainer.steps):
            mix.timeline.paces = known.timeline.paces
            _go_on(mix, trainer.steps, rows, asked.epoch)
        else:
            lost = trainer.steps
            _log.warning("%s is missing, damaged or of other samples; drb audit cannot answer for this run", path)
    write_atomically(path, {"mix": state_of(mix), "origins": dict(asked.origins), "lost": lost})


def _known(path: Path) -> Mix | None:
    """What an earlier start of the run wrote; None if that is lost."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return None if content["lost"] else mix_from(content["mix"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has_same_past(known: Mix, mix: Mix, steps: int) -> bool:
    """Whether two mixes have the same samples in their first steps; only the known one knows how many each had."""
    stop, states = known.start_of(steps), [state_of(each) for each in (known, mix)]
    before = [[segment for segment in state["segments"] if segment[0] < stop] for state in states]
    return before[0] == before[1] and all(states[0][key] == states[1][key] for key in ("seed", "sources"))


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
