"""What a run was trained on, read from its directory: `mix.json` if it mixed sources, `ledger/` if it rehearsed."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.format import read_manifest, read_part
from drb.data.mix import Mix, mix_from, mixture, samples_of_step, steps_of_sample
from drb.rehearsal.ledger.file import FOLDER
from drb.runs.rehearsed import RehearsalLedger, read_rehearsal_ledger

LEDGER_FILE = "mix.json"


@dataclass(frozen=True)
class Ledger:
    """A run's mix, and how many of its steps were trained.

    origins: by source, the files that its samples are from and how many each has; nothing if that is not known.
    checkpoints: by the name of a checkpoint or an export of the run, the steps that it has seen.
    """

    mix: Mix
    steps: int
    origins: dict[str, Sequence[Any]]
    checkpoints: dict[str, int]

    def name(self, source: str, sample: int) -> str:
        """How a sample is shown: its source and position, and the file if there are several."""
        position = sample
        for file, count in self.origins.get(source, ()):
            if position < count:
                return f"{source}:{sample} ({file}, training sample {position})"
            position -= count
        return f"{source}:{sample}"

    def step(self, step: int) -> list[str]:
        """The samples of a step, from 1 on as metrics count them.

        Raises:
            ValueError: the run has no such step.
        """
        if not 1 <= step <= self.steps:
            raise ValueError(f"the run has trained the steps 1 to {self.steps}, got {step}")
        return [self.name(*each) for each in samples_of_step(self.mix, step - 1)]

    def sample(self, name: str) -> tuple[list[int], list[str]]:
        """The steps that had a sample, and the checkpoints and exports that have seen it.

        name: SOURCE:POSITION.
        Raises:
            ValueError: no such sample.
        """
        source, _, position = name.partition(":")
        if not position.isdecimal():
            raise ValueError(f"a sample is named SOURCE:POSITION, such as {self.mix.names[-1]}:17, got {name!r}")
        steps = (steps_of_sample(self.mix, source, int(position), self.steps) + 1).tolist()
        return steps, [each for each, seen in self.checkpoints.items() if steps and steps[0] <= seen]

    def mixture(self) -> list[str]:
        """A line for each source: what it got and what it was asked to get."""
        return [
            f"{each.name}: {each.served} samples, {each.asked:.2f} asked for; at most {each.worst:.3f} off at any step "
            f"of a segment, {each.worst_in_run:.3f} over the run; at most {each.visits} visits of a sample"
            for each in mixture(self.mix, self.steps)
        ]


def read_ledger(run_dir: Path) -> Ledger | RehearsalLedger:
    """The ledger of a run.

    Raises:
        ValueError: the directory holds no run that mixed sources or rehearsed, or the ledger is damaged, or it was
            missing or damaged when the run went on.
    """
    path = run_dir / LEDGER_FILE
    if (run_dir / FOLDER).is_dir() and not path.exists():
        steps, seen = _seen(run_dir)
        return read_rehearsal_ledger(run_dir, steps if seen else None, seen, _names_of_run(run_dir))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        mix, origins, lost = mix_from(content["mix"]), dict(content["origins"]), int(content["lost"])
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}), and there is no folder {FOLDER}: give the directory of a run "
            "that mixes sources, such as experiment=base_plus_new, or rehearses with a ledger, as all do but those "
            "with ledger=false, rehearsal.prefilled or proportions that follow feedback or tasks"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if lost:
        raise ValueError(
            f"{path} was missing, damaged or of other samples when the run went on after step {lost}: which samples "
            "its steps had cannot be told any more"
        )
    steps, seen = _seen(run_dir)
    return Ledger(mix, steps, origins, seen)


def _seen(run_dir: Path) -> tuple[int, dict[str, int]]:
    """The steps that a run has trained, and those that each of its checkpoints and exports has seen, by its name."""
    seen = {path.name: int(path.name.split("-")[1]) for path in _checkpoints(run_dir)}
    steps = max(seen.values(), default=0)
    summary = run_dir / "summary.json"
    if summary.exists():
        ended = int(json.loads(summary.read_text(encoding="utf-8"))["steps"])
        seen |= {file: ended for file in ("model.safetensors", "model.pt2") if (run_dir / file).exists()}
        steps = max(steps, ended)  # a run that was extended by tasks has checkpoints beyond its summary
    return steps, seen


def _names_of_run(run_dir: Path) -> set[str]:
    """What its last checkpoint and its summary call the run; they may be of two, if it was started anew."""
    configs = []
    with contextlib.suppress(CheckpointError):
        if checkpoints := _checkpoints(run_dir):
            last = checkpoints[-1]
            configs.append(read_part(last, read_manifest(last), "trainer").get("config"))
    with contextlib.suppress(OSError, ValueError):
        configs.append(json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))["config"])
    return {config["run_id"] for config in configs if config and config.get("run_id")}


def _checkpoints(run_dir: Path) -> list[Path]:
    return sorted(path for path in (run_dir / "checkpoints").glob("step-*") if re.match(r"step-\d+(-|$)", path.name))
