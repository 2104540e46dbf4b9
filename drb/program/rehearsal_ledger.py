"""Keeps the ledger of rehearsal in a run's directory: written with each checkpoint, cut where the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from drb.distributed.agreement import value_of_main
from drb.distributed.world import World
from drb.rehearsal.ledger.file import LedgerWriter, cut
from drb.rehearsal.ledger.recorder import Recorder
from drb.rehearsal.rehearsal import Rehearsal
from drb.training import Trainer
from drb.variant import name_of

_log = logging.getLogger(__name__)


class RunLedger:
    """One per rank. Until `begin`, and for runs without one, it does nothing."""

    def __init__(self) -> None:
        self._writer: LedgerWriter | None = None
        self._steps: Callable[[], int] = lambda: 0

    def begin(
        self,
        run_dir: Path,
        rehearsal: Rehearsal | None,
        trainer: Trainer,
        world: World,
        *,
        log: bool,
        run_id: str | None = None,
    ) -> None:
        """Drop what was logged after the steps that count, and log what follows.

        Before the first minibatch. Collective.

        log: False logs nothing. Draws from prefilled samples are not logged either. Nor are those that follow from
        feedback or tasks, which rank 0 says. run_id: rank 0's counts.
        """
        run = value_of_main("ledger", run_id or "", world)
        if world.is_main:
            cut(run_dir, trainer.steps, run)
        if log and rehearsal is not None and not rehearsal.settings.shares.is_logged:
            if world.is_main:
                _log.warning(
                    "no ledger: the draws of proportions=%s follow from losses or tasks, which are not logged, so drb "
                    "audit cannot tell what this run is trained on",
                    name_of(rehearsal.settings.shares),
                )
        elif log and rehearsal is not None and rehearsal.settings.prefilled is None:
            rehearsal.recorder = recorder = Recorder()
            self._writer = LedgerWriter(run_dir, recorder, world.rank, trainer.steps, run)
            self._steps = lambda: trainer.steps

    def start_flush(self) -> Callable[[], None]:
        """Take what was logged; returns what writes it, for another thread. While no round is in flight."""
        writer = self._writer
        if writer is None:
            return lambda: None
        writer.take(self._steps())
        return writer.write

    def finish(self) -> None:
        """Write the rest, after the rehearsal has ended. A disk that is full does not fail the run."""
        try:
            self.start_flush()()
        except OSError as error:
            _log.warning("the end of the ledger could not be written (%s); drb audit will lack the last steps", error)
