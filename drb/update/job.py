"""An update, from its plan to its place in the lineage: what is trained, how it is judged, what is recorded."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drb.checkpoint import CheckpointError, RunLock
from drb.checkpoint.checkpointer import PATIENCE_S
from drb.checkpoint.directory import CheckpointDirectory
from drb.checkpoint.lock import lock_run
from drb.data.datasets import Dataset, Source, View
from drb.data.datasets.arrivals import Arrivals
from drb.data.scenarios.base_plus_new import BasePlusNew
from drb.program.build import build_network
from drb.program.claim import HOLDER
from drb.program.config import TrainConfig
from drb.program.config.keys import every_setting
from drb.program.config.variants import build_variant
from drb.program.evaluating import accuracies, accuracies_of, export_program
from drb.program.run import dataset_of
from drb.program.summary import write_atomically
from drb.program.trained import describe_network
from drb.runs.lineage.files import fingerprint_of, require_unchanged
from drb.runs.lineage.gates import failures
from drb.runs.lineage.record import Lineage, Version, lock_lineage, now, read_lineage
from drb.runs.lineage.show import as_text
from drb.tracking.lineage import track_update

_PENDING = "update.json"  # in the directory of its run


@dataclass
class Update:
    """An update that can be trained; the `Job` of `drb.train`.

    lineage: as it was when the update was planned. data: what is new. export: also write model.pt2.
    """

    lineage: Lineage
    data: Path
    fingerprint: str
    export: bool
    _lock: RunLock | None = field(default=None, repr=False)

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
        before = self.parent.files if self.parent else [self.lineage.base] if self.lineage.base else []
        return [*before, str(self.data)]

    @property
    def mixes(self) -> bool:
        """Whether the base is read again, and not rehearsed from a buffer."""
        return f"scenario={BasePlusNew.name}" in self.lineage.settings

    def description(self) -> dict[str, object]:
        """What tells it from another update."""
        return {"data": str(self.data), "fingerprint": self.fingerprint, "files": self.files}

    def begun(self) -> dict[str, Any] | None:
        """The description of an update of this number that was begun and has not ended; None if there is none."""
        try:
            content = json.loads((self.run_dir / _PENDING).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and "data" in content else None

    def has_saved(self) -> bool:
        """Whether its run has checkpoints, which somebody may want to go on from."""
        return bool(CheckpointDirectory(self.run_dir / "checkpoints", keep_last=1).checkpoints())

    def arguments(self) -> list[str]:
        """The command line of its training. While there is no base, settings of its mix are left out."""
        settings = self.lineage.settings
        if self.mixes and len(self.files) == 1:
            settings = [each for each in settings if not _is_of_mix(each)]
        quoted = ",".join(f"'{file}'" for file in self.files)
        fixed = ["dataset=arrivals", f"dataset.files=[{quoted}]", f"hydra.run.dir='{self.run_dir}'"]
        fixed += [f"run_id={self.lineage.folder.name}-{self.number:04d}", "dataset.changed=allow"]
        if self.mixes and len(self.files) > 1:
            fixed.append("scenario.new_classes=[]")
        else:
            fixed.append("scenario=arrivals")
            if base := self.lineage.base:
                fixed += ["scenario.rehearsed=1", f"rehearsal.prefilled='{base}'"]
        if self.parent is not None:
            before = self.lineage.run_dir(self.parent.number)
            fixed.append(f"model.init='{before}'" if self.mixes else f"checkpoint.resume='{before}'")
        return [*settings, *fixed]

    def begin(self) -> None:
        """Take the directory of its run, in place of an update that was begun with other data and saved nothing.

        Raises:
            ValueError: another process uses it, it cannot be written to, or the parent's network cannot be read.
        """
        if self.parent is not None:
            accuracies(self.lineage.run_dir(self.parent.number), {})  # it is judged after training, and must be whole
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._lock = lock_run(self.run_dir, HOLDER, patience_s=PATIENCE_S)
            self._require_nothing_happened()
            self.lineage.set_link()
            if self.begun() not in (None, self.description()) and not self.has_saved():
                self._empty()
            write_atomically(self.run_dir / _PENDING, self.description())
        except CheckpointError as error:
            raise ValueError(f"another update of {self.lineage.folder} goes on: {error}") from error
        except OSError as error:
            raise ValueError(f"{self.lineage.folder} cannot be written to: {error.strerror or error}") from error

    def give_up(self) -> None:
        """Leave nothing behind, unless something was saved."""
        if self.has_saved():
            return
        try:
            self._lock = lock_run(self.run_dir, HOLDER)
        except (CheckpointError, OSError):  # another process has it, or it is not there
            return
        self._empty()
        for folder in (self.run_dir, self.run_dir.parent):
            with contextlib.suppress(OSError):  # there are other versions
                folder.rmdir()

    def _empty(self) -> None:
        for path in self.run_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def finish(self, config: TrainConfig, run_dir: Path) -> None:
        """Judge what was trained and record it.

        Raises:
            ValueError: what the update stood on has changed meanwhile.
        """
        lineage, parent = self.lineage, self.parent
        require_unchanged(lineage)
        if fingerprint_of(self.data) != self.fingerprint:
            raise ValueError(
                f"{self.data} has changed while it was trained on; delete {self.run_dir} and give the command again"
            )
        sets, samples = self._eval_sets(config)
        before = self._before(config, sets)
        after = accuracies(run_dir, sets)
        failed = failures(lineage.gates, before, after)
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
        before_steps = 0 if parent is None else parent.steps
        trained = int(summary["steps"]) - (0 if self.mixes else before_steps)
        if self.export:
            export_program(run_dir)
        lock = lock_lineage(lineage.folder, "an update")
        self._require_nothing_happened()
        run_id = _tracked_as(run_dir)
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
        version = Version(
            number=self.number,
            parent=None if parent is None else parent.number,
            data=str(self.data),
            fingerprint=self.fingerprint,
            files=self.files,
            samples=samples,
            before=before,
            after=after,
            failed=failed,
            promoted=not failed,
            steps=before_steps + trained,
            trained=trained,
            made=now(),
            environment=_environment(summary),
            settings=[*lineage.settings],
            tracking_run_id=run_id,
        )
        lineage.add(version)
        lock.release()
        print(as_text(lineage))
        if failed:
            kept = "none" if lineage.current is None else lineage.current
            print(f"version {version.number} is kept as a candidate, current stays {kept}: {'; '.join(failed)}")

    def _before(self, config: TrainConfig, sets: Mapping[str, Source]) -> dict[str, float]:
        """The accuracy of what was trained on: of the parent, or of a pretrained network; empty if there was none."""
        if self.parent is not None:
            return accuracies(self.lineage.run_dir(self.parent.number), sets)
        if config.model.init in ("random", "torchvision"):
            return {}
        dataset = dataset_of(config, None)
        network = build_network(config, dataset, dataset.num_classes, 0).eval()
        return accuracies_of(network, describe_network(config, dataset, network), sets)

    def eval_set(self, name: str, config: TrainConfig, dataset: Dataset) -> Dataset:
        """A named evaluation set as test samples, with the labels that classes have in the data.

        Raises:
            ValueError: it cannot be read.
        """
        arrivals = build_variant("dataset", config.dataset)
        assert isinstance(arrivals, Arrivals)
        return arrivals.load_all_of(Path(self.lineage.eval_sets[name]), dataset.identity.classes)

    def _eval_sets(self, config: TrainConfig) -> tuple[dict[str, Source], int]:
        """Test samples of the new data, of all before it, and of the named sets; how many training samples are new."""
        dataset = dataset_of(config, None)
        num_new = dataset.arrivals[-1].num_test
        bounds = range(len(dataset.test) - num_new), range(len(dataset.test) - num_new, len(dataset.test))
        sets: dict[str, Source] = {
            name: View(dataset.test, np.arange(part.start, part.stop))
            for name, part in zip(("base", "new"), bounds, strict=True)
            if len(part)
        }
        named = {name: self.eval_set(name, config, dataset).test for name in self.lineage.eval_sets}
        return sets | named, dataset.arrivals[-1].num_train

    def _require_nothing_happened(self) -> None:
        """Raise ValueError if the lineage is not what this update began from."""
        now = read_lineage(self.lineage.folder) or Lineage(self.lineage.folder)
        if len(now.versions) != len(self.lineage.versions):
            raise ValueError(
                f"another process has recorded version {self.number} of {self.lineage.folder} meanwhile; give the "
                "command again to go on from there"
            )
        if now.current != self.lineage.current:
            raise ValueError(
                f"version {now.current} of {self.lineage.folder} was made current while this update went on from "
                f"{self.lineage.current}; delete {self.run_dir} and give the command again"
            )


def _is_of_mix(setting: str) -> bool:
    """Whether only scenario=base_plus_new has a setting."""
    known = every_setting().get(setting.partition("=")[0])
    return known is not None and known.choices == (f"scenario={BasePlusNew.name}",)


def _environment(summary: dict[str, Any]) -> dict[str, Any]:
    """What it was trained on and with."""
    machine = {name: summary["machine"][name] for name in ("host", "git_commit")}
    return {**summary["versions"], "world_size": summary["world_size"], "device": summary["device"], **machine}


def _tracked_as(run_dir: Path) -> str | None:
    try:
        run_id = json.loads((run_dir / "tracking.json").read_text(encoding="utf-8"))["run_id"]
    except (OSError, ValueError, KeyError):
        return None
    return None if run_id is None else str(run_id)
