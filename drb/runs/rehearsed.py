"""What a run with rehearsal was trained on: its stream's new samples, and the exemplars that were drawn.

Answers follow from `ledger/` of its directory: see `drb.rehearsal.ledger`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from drb.rehearsal.ledger.dealt import Stretch
from drb.rehearsal.ledger.file import FOLDER, RankLog, read_logs
from drb.rehearsal.ledger.replay import Replay
from drb.types import BoolArray, Int64Array


@dataclass(frozen=True)
class Trained:
    """The samples of one optimisation step on all ranks, int64 each: those of the stream, and the exemplars."""

    new: Int64Array
    rehearsed: Int64Array


@dataclass(frozen=True)
class RehearsalLedger:
    """The ledger of a run that has trained `steps` optimisation steps, of which the ledger may lack some (`lacks`).

    checkpoints: by the name of a checkpoint or an export of the run, the steps that it has seen.
    """

    starts: list[list[RankLog]]
    steps: int
    checkpoints: Mapping[str, int] = field(default_factory=dict)

    def trained(self, number: int) -> Trained:
        """What optimisation step `number` was trained on; they count from 1.

        Raises:
            ValueError: the run has no such step, or its ledger lacks it.
        """
        if not 1 <= number <= self.steps:
            raise ValueError(f"the run has trained the steps 1 to {self.steps}, got {number}")
        for start in self.starts:
            if start[0].begin < number <= min(log.end for log in start):
                replay = Replay(start)
                steps = [step for stretch in _stretches(start[0]) for step in stretch.steps_of(number)]
                new = [rank.offered(step) for step in steps for rank in replay.ranks]
                rehearsed = [ids for step in steps for ids in replay.drawn(step)]
                return Trained(np.concatenate(new), np.concatenate(rehearsed))
        raise ValueError(f"the ledger lacks step {number}: {self._parts}")

    def steps_of(self, sample_ids: Iterable[int]) -> dict[int, list[int]]:
        """The optimisation steps that had each of these samples, new or as an exemplar, by sample id; ascending."""
        wanted = np.unique(np.fromiter(sample_ids, np.int64))
        steps: dict[int, set[int]] = {each: set() for each in wanted.tolist()}
        for start in self.starts:
            replay, stretches = Replay(start), _stretches(start[0])
            found = [replay.drawn_of(wanted), *(rank.offered_of(wanted) for rank in replay.ranks)]
            last = min(self.steps, *(log.end for log in start))
            for by_id in found:
                for sample_id, rehearsal_steps in by_id.items():
                    numbers = _optimisation_steps(stretches, rehearsal_steps)
                    steps[sample_id].update(number for number in numbers if number <= last)
        return {sample_id: sorted(numbers) for sample_id, numbers in steps.items()}

    def seen_by(self, steps: list[int]) -> list[str]:
        """The checkpoints and exports whose weights have learnt from one of these steps, which ascend."""
        return [name for name, seen in self.checkpoints.items() if steps and steps[0] <= seen]

    @property
    def lacks(self) -> str:
        """The steps of the run that were not logged, such as '1 to 50, 91 to 120'; empty if all were."""
        gaps, known = [], 0
        for start in [*self.starts, None]:
            begin = self.steps if start is None else min(start[0].begin, self.steps)
            if begin > known:
                gaps.append(f"{known + 1} to {begin}")
            if start is not None:
                known = max(known, min(log.end for log in start))
        return ", ".join(gaps)

    # -- what drb audit prints

    def step(self, number: int) -> list[str]:
        """A line for each sample of an optimisation step. Raises ValueError as `trained`."""
        trained = self.trained(number)
        kinds = (("new", trained.new), ("rehearsed", trained.rehearsed))
        return [f"{kind} {each} ({self._task_of(each)})" for kind, ids in kinds for each in ids.tolist()]

    def sample(self, name: str) -> tuple[list[int], list[str]]:
        """The steps that had a sample, and the checkpoints and exports that have seen it.

        Raises:
            ValueError: name is no sample id.
        """
        if not is_sample_id(name):
            raise ValueError(f"a sample of a run with rehearsal is named by its id, such as 17, got {name!r}")
        steps = self.steps_of([int(name)])[int(name)]
        return steps, self.seen_by(steps)

    def mixture(self) -> list[str]:
        """What the stream and the buffers got of the steps, and how many exemplars were asked for."""
        new = drawn = asked = 0
        for start in self.starts:
            replay, last = Replay(start), min(self.steps, *(log.end for log in start))
            rows = [rank.rows_offered() for rank in replay.ranks]
            num_steps = 1 + max((int(steps[-1]) for steps, _ in rows if len(steps)), default=-1)
            is_counted = _are_up_to(last, _stretches(start[0]), num_steps)
            new += sum(int(amounts[is_counted[steps]].sum()) for steps, amounts in rows)
            given, wanted = replay.counts_of_draws(len(is_counted))
            drawn, asked = drawn + int(given[is_counted].sum()), asked + int(wanted[is_counted].sum())
        total = max(new + drawn, 1)
        return [
            f"new: {new} samples, {100 * new / total:.2f} % of all",
            f"rehearsed: {drawn} samples, {100 * drawn / total:.2f} % of all; {asked} asked for, which is "
            f"{100 * asked / max(new + asked, 1):.2f} %; {asked - drawn} fewer while the buffers held too few",
        ]

    @property
    def _parts(self) -> str:
        has = ", ".join(f"{start[0].begin + 1} to {min(log.end for log in start)}" for start in self.starts)
        return f"it has the steps {has or 'of no run'}"

    @cached_property
    def _tasks(self) -> dict[str, Int64Array]:
        """The sample ids of each task by its name, ascending."""
        return {name: np.sort(ids) for start in self.starts for name, ids in start[0].tasks}

    def _task_of(self, sample_id: int) -> str:
        """Where a sample is from."""
        for name, ids in self._tasks.items():
            at = int(np.searchsorted(ids, sample_id))
            if at < len(ids) and ids[at] == sample_id:
                return name
        return "from before this run"


def read_rehearsal_ledger(
    run_dir: Path,
    steps: int | None = None,
    checkpoints: Mapping[str, int] | None = None,
    runs: Collection[str] = (),
) -> RehearsalLedger:
    """The ledger of a run. steps: those that its checkpoints and its summary know of; None: all that were logged.

    runs: the names that they know the run by.

    Raises:
        ValueError: it is damaged or of another run, or was not written.
    """
    starts = read_logs(run_dir, runs)
    if not starts:
        raise ValueError(f"{run_dir / FOLDER} holds no ledger: the run was started with ledger=false, or saved nothing")
    last = max(log.end for start in starts for log in start)
    return RehearsalLedger(starts, last if steps is None else steps, checkpoints or {})


def is_sample_id(name: str) -> bool:
    """Whether a sample's name is an id, which is an integer of 64 bits."""
    return name.removeprefix("-").isdecimal() and -(1 << 63) <= int(name) < 1 << 63


def _stretches(log: RankLog) -> list[Stretch]:
    """Those that were logged; in a training loop of someone's own, which logs none, every step is a minibatch."""
    if log.stretches or not log.entries:
        return log.stretches
    begin = log.entries[0].begin
    return [Stretch(begin, log.entries[-1].end - begin, log.begin, 1, -1, None)]


def _are_up_to(number: int, stretches: list[Stretch], steps: int) -> BoolArray:
    """Which of the rehearsal's steps 0 … steps - 1 are part of optimisation steps up to this one, bool [steps]."""
    are: BoolArray = np.ones(steps, bool)
    for stretch in stretches:
        minibatches = max(0, number - stretch.taken) * stretch.accumulate
        are[stretch.begin + minibatches : stretch.end] = False
    return are


def _optimisation_steps(stretches: list[Stretch], steps: Iterable[int]) -> Iterator[int]:
    for step in steps:
        for stretch in stretches:
            if stretch.begin <= step < stretch.end:
                yield stretch.optimisation_step(step)
