"""New data arrived: train a model on it, judge it, and promote it or keep it aside, as one line of a lineage.

    drb update --state DIR --data today.npz [key=value ...]
    torchrun --nproc-per-node=N -m drb.update --state DIR --data today.npz

The first update begins a lineage; every later one goes on from its current version: network, buffer and optimizer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drb.data.check import check_dataset
from drb.data.datasets import Source, View, load_dataset, tensor_dataset
from drb.data.datasets.arrivals import read_arrays
from drb.program.config import TrainConfig
from drb.program.evaluating import accuracies, export_program
from drb.program.summary import versions, write_atomically
from drb.runs.lineage.files import fingerprint_of, require_run, require_unchanged
from drb.runs.lineage.gates import failures, read_gates, require_known
from drb.runs.lineage.record import Lineage, Version, now, read_lineage
from drb.runs.lineage.show import as_text
from drb.tracking.lineage import track_update
from drb.train import main as train

_EPILOG = """\
All other arguments are settings of training, as for drb train (see drb train --help); a lineage keeps them, and a later
update may change those that a resumed run may change. Killed? The same command goes on, on any number of ranks.
docs/update.md walks through three days of updates.
"""
_PENDING = "update.json"
_DECIDED = {"dataset", "dataset.files", "dataset.changed", "checkpoint.enabled", "checkpoint.resume", "run_id"}


@dataclass
class Update:
    """An update that is about to be trained. export: also write model.pt2."""

    lineage: Lineage
    data: Path
    fingerprint: str
    export: bool

    @property
    def number(self) -> int:
        return len(self.lineage.versions) + 1

    @property
    def run_dir(self) -> Path:
        return self.lineage.run_dir(self.number)

    @property
    def parent(self) -> Version | None:
        return None if self.lineage.current is None else self.lineage.version(self.lineage.current)

    @property
    def files(self) -> list[str]:
        return [*(self.parent.files if self.parent else []), str(self.data)]

    @property
    def mixes(self) -> bool:
        """Whether the base is read again, and not rehearsed from a buffer."""
        return bool({"scenario=base_plus_new", "experiment=base_plus_new"} & set(self.lineage.settings))

    def arguments(self) -> list[str]:
        """The command line of its training."""
        quoted = ",".join(f"'{file}'" for file in self.files)
        fixed = ["dataset=arrivals", f"dataset.files=[{quoted}]", f"hydra.run.dir='{self.run_dir}'"]
        fixed += [f"run_id={self.lineage.folder.name}-{self.number:04d}", "dataset.changed=allow"]
        if not self.mixes:
            fixed.append("scenario=arrivals")
        elif self.parent is not None:
            fixed.append("scenario.new_classes=[]")
        else:
            fixed += ["scenario=arrivals"]  # there is no base yet
        if self.parent is not None:
            before = self.lineage.run_dir(self.parent.number)
            fixed.append(f"model.init='{before}'" if self.mixes else f"checkpoint.resume='{before}'")
        return [*self.lineage.settings, *fixed]

    def finish(self, config: TrainConfig, run_dir: Path) -> None:
        """Judge what was trained and record it; on rank 0."""
        lineage, parent = self.lineage, self.parent
        require_unchanged(lineage)
        if fingerprint_of(self.data) != self.fingerprint:
            raise ValueError(
                f"{self.data} has changed while it was trained on; delete {self.run_dir} and give the command again"
            )
        sets = self._eval_sets()
        before = {} if parent is None else accuracies(lineage.run_dir(parent.number), sets)
        after = accuracies(run_dir, sets)
        failed = failures(lineage.gates, before, after)
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
        before_steps = 0 if parent is None else parent.steps
        trained = int(summary["steps"]) - (0 if self.mixes else before_steps)
        if self.export:
            export_program(run_dir)
        self._require_nothing_happened()
        run_id = self._tracked_as(run_dir)
        lineage.tracking = track_update(
            lineage.tracking,
            uri=getattr(config.tracking, "uri", None),
            experiment=config.tracking.experiment,
            name=lineage.folder.name,
            run_id=run_id if config.tracking.enabled else None,
            metrics={f"accuracy/{name}": value for name, value in after.items()} | {"version": float(self.number)},
            step=sum(each.trained for each in lineage.versions) + trained,
            version=self.number,
            promoted=not failed,
            files=run_dir,
        )
        environment = {**versions(), "world_size": summary["world_size"], "device": summary["device"]}
        version = Version(
            number=self.number,
            parent=None if parent is None else parent.number,
            data=str(self.data),
            fingerprint=self.fingerprint,
            files=self.files,
            samples=len(load_dataset("arrivals", files=[str(self.data)]).train),
            before=before,
            after=after,
            failed=failed,
            promoted=not failed,
            steps=before_steps + trained,
            trained=trained,
            made=now(),
            environment=environment,
            tracking_run_id=run_id,
        )
        lineage.add(version)
        print(as_text(lineage))
        if failed:
            kept = "none" if lineage.current is None else lineage.current
            print(f"version {version.number} is kept as a candidate, current stays {kept}: {'; '.join(failed)}")

    def _eval_sets(self) -> dict[str, Source]:
        """Test samples of the new file, of all files before it, and of the named files."""
        dataset = load_dataset("arrivals", files=self.files)
        num_new = dataset.arrivals[-1].num_test
        bounds = range(len(dataset.test) - num_new), range(len(dataset.test) - num_new, len(dataset.test))
        sets: dict[str, Source] = {
            name: View(dataset.test, np.arange(part.start, part.stop))
            for name, part in zip(("base", "new"), bounds, strict=True)
            if len(part)
        }
        return sets | {name: _all_of(file) for name, file in self.lineage.eval_sets.items()}

    def _require_nothing_happened(self) -> None:
        """Raise ValueError if the lineage is not what this update began from."""
        now = read_lineage(self.lineage.folder) or Lineage(self.lineage.folder)
        if len(now.versions) != len(self.lineage.versions):
            raise ValueError(f"another process has recorded version {self.number} of {self.lineage.folder} meanwhile")
        if now.current != self.lineage.current:
            raise ValueError(
                f"version {now.current} of {self.lineage.folder} was made current while this update went on from "
                f"{self.lineage.current}; delete {self.run_dir} and give the command again"
            )

    def _tracked_as(self, run_dir: Path) -> str | None:
        try:
            run_id = json.loads((run_dir / "tracking.json").read_text(encoding="utf-8"))["run_id"]
        except (OSError, ValueError, KeyError):
            return None
        return None if run_id is None else str(run_id)


def plan(options: argparse.Namespace, settings: Sequence[str]) -> Update:
    """What these arguments ask for. Nothing is written.

    Raises:
        ValueError: a state, data, evaluation set or gate that cannot be used, or data that was learnt already.
    """
    folder, data = options.state.expanduser().absolute(), options.data.expanduser().absolute()
    lineage = read_lineage(folder) or Lineage(folder)
    if decided := sorted(_DECIDED & {each.partition("=")[0] for each in settings}):
        raise ValueError(f"drb update chooses {', '.join(decided)} itself; leave it out")
    lineage.settings = _merged(lineage.settings, settings)
    for text in options.eval:
        name, _, file = text.partition("=")
        if not name or not file or name in ("base", "new"):
            raise ValueError(f"--eval takes NAME=FILE with a name that is not base or new, got {text!r}")
        lineage.eval_sets[name] = str(Path(file).expanduser().absolute())
        lineage.eval_fingerprints.pop(name, None)
    lineage.gates |= read_gates(options.may_fall, options.must_reach)
    require_known(lineage.gates, ["base", "new", *lineage.eval_sets])
    for name, file in lineage.eval_sets.items():
        _all_of(file)
        lineage.eval_fingerprints.setdefault(name, fingerprint_of(Path(file)))
    load_dataset("arrivals", files=[str(data)])
    update = Update(lineage, data, fingerprint_of(data), options.export)
    earlier = update.parent.files if update.parent else []
    for version in lineage.versions:
        if version.fingerprint == update.fingerprint and version.data in earlier:
            raise ValueError(f"version {version.number} has learnt {data} already (the file has the same content)")
    require_unchanged(lineage)
    if lineage.current is not None:
        require_run(lineage, lineage.current)
    check_dataset(
        load_dataset("arrivals", files=update.files)
    )  # what training would refuse, before anything is written
    _require_same_as_begun(update)
    return update


def _require_same_as_begun(update: Update) -> None:
    """Raises ValueError if another update was begun and not finished."""
    path = update.run_dir / _PENDING
    if not path.exists():
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    if begun != _description(update):
        raise ValueError(
            f"an update with {begun['data']} was begun and not finished; finish it with the same command, or delete "
            f"{update.run_dir}"
        )


def _description(update: Update) -> dict[str, object]:
    return {"data": str(update.data), "fingerprint": update.fingerprint, "files": update.files}


def _merged(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Settings as key=value, of which the last one counts."""
    by_key = {setting.partition("=")[0]: setting for setting in [*before, *now]}
    return list(by_key.values())


def _all_of(file: str) -> Source:
    """All samples of an evaluation set's file."""
    arrays = read_arrays(Path(file))
    return tensor_dataset((arrays["image"], arrays["label"]), (arrays["image"], arrays["label"]), name=file).test


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `drb update`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="drb update", description=__doc__.partition("\n\n")[0], epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="the folder of the lineage")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="the new samples (.npz: image, label)")
    parser.add_argument("--eval", action="append", default=[], metavar="NAME=FILE", help="an evaluation set")
    parser.add_argument(
        "--may-fall", action="append", default=[], metavar="NAME=POINTS", help="a gate: what a set may lose"
    )
    parser.add_argument(
        "--must-reach", action="append", default=[], metavar="NAME=PERCENT", help="a gate: what a set must reach"
    )
    parser.add_argument("--export", action="store_true", help="also write the network as model.pt2 (torch.export)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of training")
    options = parser.parse_intermixed_args(list(sys.argv[1:] if arguments is None else arguments))

    def prepare(is_main: bool) -> tuple[list[str], Callable[[TrainConfig, Path], None]]:
        update = plan(options, options.settings)
        if is_main:
            try:
                update.lineage.set_link()
                update.run_dir.mkdir(parents=True, exist_ok=True)
                write_atomically(update.run_dir / _PENDING, _description(update))
            except OSError as error:
                raise ValueError(f"{options.state} cannot be written to: {error.strerror or error}") from error
        return update.arguments(), update.finish

    return train([], prepare)


if __name__ == "__main__":
    sys.exit(main())
