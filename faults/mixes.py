"""Kills runs that mix sources, and checks what the audit says against what each rank had written down.

    python -m faults mixes [--runs 10] [--kills 10] [--seed 0] [--out FILE]

A run is started again after each kill, on another number of ranks (1 to 4), often with other shares, a source that has
grown or one more source. Its ranks write down every sample before they train on it, and rank 0 saves the mix's state
now and then; all are killed (SIGKILL) at a moment at random. What was written down of the steps that count has to be
what the audit says of them: nothing lost, nothing else, no sample again before it is due, and each source within one
sample of its share at every step of a segment.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drb import MixedSource
from drb.data.mix import mix_from, samples_of_step

ROWS, MOST_RANKS, STEPS_OF_A_START = 60, 4, 2000
Parts = dict[str, tuple[int, int]]  # samples and share of each source


@dataclass
class Outcome:
    """What was found in the runs. seconds: of all of them. worst: of a share, in samples, at any step of a segment."""

    runs: int = 0
    kills: int = 0
    steps: int = 0
    samples: int = 0
    trained_again: int = 0
    changes: int = 0
    ranks: list[int] = field(default_factory=lambda: [0] * (MOST_RANKS + 1))
    lost: int = 0
    not_in_audit: int = 0
    unscheduled_repeats: int = 0
    worst: float = 0.0
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether all is as promised."""
        return self.lost == self.not_in_audit == self.unscheduled_repeats == 0 and self.worst < 1


@dataclass
class Start:
    """One start of a run: the step it began with, its ranks, its sources, and whether these are others than before."""

    begin: int
    world_size: int
    parts: Parts
    is_changed: bool


class Numbers:
    """A dataset of so many samples, which are not read."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"label": index}


def mixed_of(parts: Parts, seed: int, state: dict[str, Any] | None) -> MixedSource:
    """The mix of these sources, where a state has got to."""
    given = [(name, Numbers(count), share) for name, (count, share) in parts.items()]
    mixed = MixedSource(given, batch_size=ROWS, seed=seed)
    if state is not None:
        mixed.load_state_dict(state, changes="allow")
    return mixed


def train(rank: int, start: Start, seed: int, folder: Path, number: int, barrier: Any) -> None:
    """One rank of a start: write down what each step has; rank 0 saves the state now and then."""
    path = folder / "state.json"
    mixed = mixed_of(start.parts, seed, json.loads(path.read_text()) if path.exists() else None)
    rng = random.Random(seed + number)
    sampler = mixed.sampler(rank, start.world_size, steps=STEPS_OF_A_START)
    with (folder / f"{number}-{rank}.txt").open("w") as file:
        for step, ids in enumerate(sampler, mixed.step):
            file.write(" ".join([str(step), *("{}:{}".format(*mixed.name_of(each)) for each in ids), "\n"]))
            file.flush()
            barrier.wait(timeout=60)
            if rank == 0 and rng.random() < 0.1:
                unfinished = folder / "state.tmp"
                unfinished.write_text(json.dumps(mixed.state_dict(step + 1)))
                unfinished.replace(path)


def changed(parts: Parts, rng: random.Random) -> Parts:
    """Other shares, a source that has grown, or one more."""
    parts, kind = dict(parts), rng.randrange(3)
    name = rng.choice(list(parts))
    count, share = parts[name]
    if kind == 0 or (kind == 2 and len(parts) == 4):
        parts[name] = (count, share + rng.randint(1, 3))
    elif kind == 1:
        parts[name] = (count + rng.randint(1, 200), share)
    else:
        parts[f"added{len(parts)}"] = (rng.randint(150, 900), rng.randint(1, 3))
    return parts


def kill_and_go_on(seed: int, kills: int, folder: Path) -> list[Start]:
    """Start a run, kill it, start it again; what was started. The last start is killed, too."""
    rng, context = random.Random(seed), mp.get_context("forkserver")
    context.set_forkserver_preload(["faults.mixes"])
    parts: Parts = {"new": (rng.randint(200, 900), 3), "base": (rng.randint(300, 1500), 4)}
    starts: list[Start] = []
    for number in range(kills):
        is_changed = number > 0 and rng.random() < 0.5
        parts = changed(parts, rng) if is_changed else parts
        state = folder / "state.json"
        begin = json.loads(state.read_text())["step"] if state.exists() else 0
        start = Start(begin, rng.randint(1, MOST_RANKS), parts, is_changed)
        starts.append(start)
        barrier = context.Barrier(start.world_size)
        ranks = [
            context.Process(target=train, args=(rank, start, seed, folder, number, barrier), daemon=True)
            for rank in range(start.world_size)
        ]
        for process in ranks:
            process.start()
        while not (folder / f"{number}-0.txt").exists() and ranks[0].is_alive():
            time.sleep(0.002)
        time.sleep(rng.expovariate(1 / 0.15))
        for process in rng.sample(ranks, len(ranks)):
            process.kill()
        for process in ranks:
            process.join()
            process.close()
    return starts


def written_down(folder: Path, starts: Sequence[Start], end: int, outcome: Outcome) -> list[list[str]]:
    """What the ranks had written down of each step that counts; of two starts that trained a step the later counts."""
    steps: list[list[str]] = [[] for _ in range(end)]
    last = [*(start.begin for start in starts[1:]), end]
    for number, (start, stop) in enumerate(zip(starts, last, strict=True)):
        for rank in range(start.world_size):
            path = folder / f"{number}-{rank}.txt"
            for line in path.read_text().splitlines() if path.exists() else ():
                step, *names = line.split()
                if start.begin <= int(step) < stop:
                    steps[int(step)] += names
                else:
                    outcome.trained_again += rank == 0
    return steps


def check(starts: Sequence[Start], seed: int, folder: Path, outcome: Outcome) -> None:
    """Compare a run's audit with what was written down, and see whether what was trained on was due."""
    state = json.loads((folder / "state.json").read_text())
    mix = mix_from(mixed_of(starts[-1].parts, seed, state).state_dict(state["step"]))
    steps = written_down(folder, starts, state["step"], outcome)
    outcome.steps += len(steps)
    visited: dict[str, set[int]] = {}
    room: dict[str, int] = {}
    at = 0
    for step, names in enumerate(steps):
        while at + 1 < len(starts) and starts[at + 1].begin <= step:
            at += 1
        audited = samples_of_step(mix, step)
        told, wrote = Counter("{}:{}".format(*each) for each in audited), Counter(names)
        outcome.lost += (told - wrote).total()
        outcome.not_in_audit += (wrote - told).total()
        outcome.samples += len(names)
        for name, sample in audited:
            visits = visited.setdefault(name, set())
            if not visits or len(visits) == room[name]:  # an epoch of the source begins, with all that it has by then
                visits.clear()
                room[name] = starts[at].parts[name][0]
            outcome.unscheduled_repeats += sample in visits
            visits.add(sample)
    outcome.worst = max(outcome.worst, worst_share(starts, steps))


def worst_share(starts: Sequence[Start], steps: Sequence[Sequence[str]]) -> float:
    """How far a source was off its share at worst, in samples, after any step of a segment, counted from its start."""
    segments = segments_of(starts)
    worst = 0.0
    for (begin, shares), stop in zip(segments, [*(begin for begin, _ in segments[1:]), len(steps)], strict=True):
        total, served, rows = sum(shares.values()), Counter[str](), 0
        for names in steps[begin:stop]:
            served.update(name.partition(":")[0] for name in names)
            rows += len(names)
            worst = max(worst, *(abs(served[name] - rows * share / total) for name, share in shares.items()))
    return worst


def segments_of(starts: Sequence[Start]) -> list[tuple[int, dict[str, int]]]:
    """Where other shares begin, and these. A source that grows keeps its share; a start that saved nothing is lost."""
    by_begin = {start.begin: {name: share for name, (_, share) in start.parts.items()} for start in starts}
    segments: list[tuple[int, dict[str, int]]] = []
    for begin, shares in by_begin.items():
        if not segments or segments[-1][1] != shares:
            segments.append((begin, shares))
    return segments


def campaign(runs: int, kills: int, seed: int) -> Outcome:
    """So many runs, each killed so many times."""
    outcome, begin = Outcome(), time.monotonic()
    for number in range(runs):
        with tempfile.TemporaryDirectory(prefix="drb-mixes-") as name:
            starts = kill_and_go_on(seed + number, kills, Path(name))
            outcome.runs += 1
            outcome.kills += len(starts)
            outcome.changes += sum(start.is_changed for start in starts)
            for start in starts:
                outcome.ranks[start.world_size] += 1
            if (Path(name) / "state.json").exists():
                check(starts, seed + number, Path(name), outcome)
    outcome.seconds = round(time.monotonic() - begin, 1)
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all is as promised."""
    parser = argparse.ArgumentParser(
        prog="faults mixes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    options = parser.parse_args(arguments)
    outcome = campaign(options.runs, options.kills, options.seed)
    text = json.dumps({**asdict(outcome), "holds": outcome.holds}, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return 0 if outcome.holds else 1
