"""One case: break a run, check how it ends and what it leaves, let it go on, compare with a run that nothing broke."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from faults.damage import checkpoints, damage
from faults.outcome import JOB, TIMEOUT_S, Outcome, Reference, result_of, stored_ids
from faults.plan import DAMAGES, PROCESS_KINDS, Fault
from faults.ranks import RankEnd, RunEnd, run_ranks
from faults.server import start_server
from faults.stage import enter_namespace, mount_memory, processes_of_session

_NAMES_PLACE = re.compile(r"round \d+|step[- ]\d+|checkpoint")


def run_case(fault: Fault, folder: Path, reference: Reference, seed: int) -> Outcome:
    """In this process, which should be made for it: it gets a namespace and a session of its own."""
    os.setsid()
    enter_namespace()
    case = _Case(fault, folder, reference, seed)
    try:
        case.run()
    except Exception as error:
        case.outcome.problems.append(f"the case itself failed: {type(error).__name__}: {error}")
    return case.outcome


class _Case:
    def __init__(self, fault: Fault, folder: Path, reference: Reference, seed: int) -> None:
        self.fault = fault
        self.outcome = Outcome(fault)
        self._reference = reference
        self._generator = random.Random(f"{seed}/{fault.number}")
        self._logs = folder / "logs"
        self._disk = folder / "disk"
        self._run_dir = self._disk / "run"
        self._scratch = folder / "tmp"
        self._data = folder / "data"
        mount_memory(self._disk, "48m" if fault.kind == "disk_full" else "512m")
        mount_memory(Path("/dev/shm"), "8k" if fault.kind == "shm_small" else "256m")
        self._scratch.mkdir(parents=True)
        self._environment = {"TMPDIR": str(self._scratch), "FAULTS_DISK": str(self._disk)}
        self._arguments = [
            *JOB,
            f"hydra.run.dir={self._run_dir}",
            f"timeout_s={TIMEOUT_S}",
            f"rehearsal.timeout_s={TIMEOUT_S}",
            f"rehearsal.exchange={fault.exchange}",
            f"rehearsal.asynchronous={str(fault.asynchronous).lower()}",
            "tracking=none",
        ]

    def run(self) -> None:
        if self.fault.kind == "server_gone":
            self._lose_server()
        elif self.fault.kind == "undeletable":
            self._keep_folders()
        elif self.fault.launcher == "torchrun":
            self._go_on_by_itself()
        else:
            self._break_and_resume()
        self._check_left_behind()

    # -- the kinds of cases

    def _break_and_resume(self) -> None:
        if self.fault.kind == "unreadable_file":
            self._make_images()
        broken = self._run(self._arguments, "broken", self.fault)
        self._check_end(broken)
        self._check_left_behind(finished=False)
        if self.fault.kind == "shm_small":
            subprocess.run(["mount", "-o", "remount,size=256m", "/dev/shm"], check=True)
        (self._disk / "filler").unlink(missing_ok=True)
        if self.fault.kind in DAMAGES:
            self._resume_damaged()
        self._count_lost()
        if self.fault.kind == "unreadable_file":
            self._make_images()
        self._checkresult_of(self._run(self._arguments, "resumed"))

    def _resume_damaged(self) -> None:
        kind, newest = self.fault.kind, checkpoints(self._run_dir)[-1]
        if kind == "other_config":
            ended = self._run([*self._arguments, "optimizer.momentum=0.8"], "other_config")
            self._expect_error(ended, "optimizer.momentum")
            return
        if kind == "kill_importing":
            again = replace(self.fault, kind="kill", target="import", call=1, after=self._generator.random() < 0.5)
            ended = self._run(self._arguments, "importing", again)
            self._expect(ended.struck and not ended.hung, f"the second kill: struck={ended.struck}, hang={ended.hung}")
            for end in ended.ranks:
                wanted = -signal.SIGKILL if end.rank == self.fault.rank else 1
                self._expect(end.code == wanted, f"rank {end.rank} ended with {end.code} when one was killed importing")
            return
        kept = self._disk / "kept"
        shutil.copytree(newest, kept)
        broken = damage(newest, kind, self._generator)
        ended = self._run([*self._arguments, f"checkpoint.resume={newest}"], "damaged")
        self._expect_error(ended, str(broken))
        if self._generator.random() < 0.5 and kind != "other_version":
            return  # going on takes the checkpoint before; one that is whole, but of another drb, is never passed over
        shutil.rmtree(newest)
        kept.rename(newest)

    def _expect_error(self, ended: RunEnd, text: str) -> None:
        """Every rank ends with one line that has this text."""
        self._note(ended)
        for end in ended.ranks:
            self._expect(end.code == 1, f"rank {end.rank} ended with code {end.code}")
            self._expect(len(end.errors) == 1 and text in end.errors[0], f"rank {end.rank} said {end.errors}")

    def _lose_server(self) -> None:
        """The run goes on and keeps its metrics in its directory."""
        server = start_server(self._scratch / "server")
        environment = {"FAULTS_SERVER": str(server.pid), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        arguments = [*self._arguments[:-1], "tracking=mlflow", f"tracking.uri={server.uri}", "tracking.plots=false"]
        ended = self._run(arguments, "broken", self.fault, **environment)
        os.waitpid(server.pid, 0)
        shutil.rmtree(self._scratch / "server")
        said = [line for line in ended.ranks[0].err.splitlines() if "tracking: " in line]
        self.outcome.message = said[0] if said else ""
        self.outcome.seconds = ended.since_fault_s
        self._expect(ended.struck, "the fault did not strike")
        self._expect(len(said) == 1 and "metrics are kept in" in said[0], f"rank 0 said {said}")
        self._expect((self._run_dir / "mlflow_offline.db").exists(), "no metrics were kept")
        self._checkresult_of(ended)

    def _keep_folders(self) -> None:
        """The run goes on, and says what it could not delete."""
        ended = self._run(self._arguments, "broken", self.fault)
        said = [line for line in ended.ranks[0].err.splitlines() if "cannot be deleted" in line]
        self.outcome.message = said[0] if said else ""
        self.outcome.seconds = ended.since_fault_s
        self._expect(ended.struck, "the fault did not strike")
        left = list(self._run_dir.glob("checkpoints/.step-*"))
        self._expect(bool(said) and bool(left), f"rank 0 said {said} of {left}")
        for folder in left:
            shutil.rmtree(folder)
        self._checkresult_of(ended)

    def _go_on_by_itself(self) -> None:
        """torchrun starts the ranks again, and they go on from the last checkpoint."""
        logs = self._logs
        logs.mkdir(parents=True)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--max-restarts=1"]
        command = [sys.executable, *launcher, f"--nproc-per-node={self.fault.world_size}", "-m", "faults.injection"]
        struck = logs / "struck"
        own = {"FAULTS_FAULT": json.dumps(self.fault.to_json()), "FAULTS_STRUCK": str(struck), **self._environment}
        root = str(Path(__file__).resolve().parents[1])
        with open(logs / "torchrun.out", "w") as out, open(logs / "torchrun.err", "w") as err:
            environment = {**os.environ, "PYTHONPATH": root, **own}
            done = subprocess.run(
                [*command, *self._arguments], stdout=out, stderr=err, env=environment, timeout=240, check=False
            )
        said, told = (logs / "torchrun.err").read_text(), (logs / "torchrun.out").read_text()
        errors = re.findall(r"^drb: (?:\[rank \d+\] )?error: .*$", said, re.MULTILINE)
        self.outcome.message = errors[0] if errors else ""
        self._expect(struck.exists(), "the fault did not strike")
        self._expect(bool(errors) and f"rank {self.fault.rank}" in errors[0], f"the ranks said {errors}")
        self._expect("resumed from" in told, "it did not go on from a checkpoint")
        self._expect(done.returncode == 0, f"torchrun ended with code {done.returncode}: {said[-2000:]}")
        if struck.exists():
            self.outcome.seconds = time.time() - float(struck.read_text())
        self._compare()

    # -- checks

    def _check_end(self, ended: RunEnd) -> None:
        """Every rank that lives ends by itself, with one line that names the rank, the place and who is to blame."""
        fault = self.fault
        self._note(ended)
        self._expect(ended.struck or fault.kind == "shm_small", "the fault did not strike")
        for end in ended.ranks:
            is_victim = end.rank == fault.rank
            if is_victim and (fault.kind == "kill" or fault.kind in DAMAGES):
                self._expect(
                    end.code == -signal.SIGKILL, f"rank {end.rank}, the killed one, ended with code {end.code}"
                )
                continue
            self._expect(end.code == 1, f"rank {end.rank} ended with code {end.code}")
            self._expect(len(end.errors) == 1, f"rank {end.rank} said {end.errors or end.err[-300:]}")
            if end.errors:
                self._check_line(end, end.errors[0])

    def _check_line(self, end: RankEnd, line: str) -> None:
        fault = self.fault
        if fault.kind == "shm_small":
            wanted = ["/dev/shm", "exchange=collective"]
        elif fault.kind == "unreadable_file":
            wanted = [str(self._data)]
        elif fault.kind == "disk_full":
            wanted = ["could not be saved on rank", "No space left", ".writing/"]  # of all ranks: they share it
        else:
            wanted = [f"rank {fault.rank}"]
            is_alike = "could not be saved" in line  # a checkpoint's failure is the same line on all ranks
            self._expect(is_alike or f"rank {end.rank}" in line, f"rank {end.rank} does not name itself: {line}")
            self._expect(bool(_NAMES_PLACE.search(line)), f"rank {end.rank} names neither round nor step: {line}")
            others = set(range(fault.world_size)) - {fault.rank, end.rank}
            accused = re.search(r"ranks? ([\d, ]+) (?:did not arrive|failed:)", line)
            if accused and fault.kind in (*PROCESS_KINDS, *DAMAGES):
                named = {int(rank) for rank in accused[1].split(",")}
                self._expect(not named & others, f"rank {end.rank} blames others: {line}")
        for text in wanted:
            self._expect(text in line, f"rank {end.rank} does not name {text}: {line}")

    def _check_left_behind(self, finished: bool = True) -> None:
        """No process, no shared memory, no temporary file; nothing half-written once the run has gone on."""
        alive = [pid for pid in processes_of_session(os.getsid(0)) if pid != os.getpid()]
        own = [path for path in self._scratch.iterdir() if not path.name.startswith("torchelastic_")]  # torchrun's log
        files = [*Path("/dev/shm").iterdir(), *own]
        if finished:
            files += self._run_dir.glob("checkpoints/.*")
            files += [path for path in self._run_dir.rglob("*") if path.suffix in (".tmp", ".writing", ".part")]
        self.outcome.orphans += len(alive)
        self.outcome.leaks += len(files)
        self._expect(not alive, f"processes are left: {alive}")
        self._expect(not files, f"files are left: {[str(file) for file in files]}")

    def _count_lost(self) -> None:
        """Exemplars of the last good checkpoint, against the run that nothing broke at the same step."""
        if self.fault.kind == "unreadable_file" or not checkpoints(self._run_dir):
            self._expect(self.fault.kind in ("unreadable_file", "shm_small"), "there is no checkpoint")
            return
        for path in reversed(checkpoints(self._run_dir)):
            try:
                stored = stored_ids(path)
            except ValueError:  # the damaged one
                continue
            self.outcome.lost = len(set(self._reference.ids[path.name]) - set(stored))
            self._expect(self.outcome.lost == 0, f"{self.outcome.lost} exemplars are missing from {path.name}")
            return
        self._expect(False, "no checkpoint is good")

    def _checkresult_of(self, ended: RunEnd) -> None:
        for end in ended.ranks:
            self._expect(end.code == 0, f"rank {end.rank} of the run that goes on: code {end.code}: {end.err[-500:]}")
        if all(end.code == 0 for end in ended.ranks) and self.fault.kind != "unreadable_file":
            self._compare()

    def _compare(self) -> None:
        if not (self._run_dir / "summary.json").exists():
            self._expect(False, "there is no summary")
            return
        matrix, counts = result_of(self._run_dir)
        self._expect(matrix == self._reference.matrix, f"another accuracy matrix: {matrix}, {self._reference.matrix}")
        self._expect(counts == self._reference.counts, "another buffer at the end")

    def _note(self, ended: RunEnd) -> None:
        """The line of a rank that tells of the fault from outside, if there is one."""
        lines = [error for end in ended.ranks if end.rank != self.fault.rank for error in end.errors]
        lines += [error for end in ended.ranks for error in end.errors]
        self.outcome.message = lines[0] if lines else ""
        self.outcome.seconds = self.outcome.seconds or ended.since_fault_s
        self._expect(not ended.hung, f"ranks {ended.hung} hang")

    def _expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.outcome.problems.append(problem)

    # -- runs

    def _run(self, arguments: Sequence[str], name: str, fault: Fault | None = None, **environment: str) -> RunEnd:
        variables = self._environment | environment
        return run_ranks(arguments, self.fault.world_size, self._logs / name, fault=fault, environment=variables)

    def _make_images(self) -> None:
        """A folder of tiny image files, the same each time; the job reads it from now on."""
        from PIL import Image

        noise = np.random.default_rng(0)
        for split, per_class in (("train", 60), ("val", 4)):
            for label in range(8):
                (self._data / split / f"{label}").mkdir(parents=True, exist_ok=True)
                for number in range(per_class):
                    pixels = noise.integers(0, 256, (8, 8, 3), np.uint8)
                    Image.fromarray(pixels).save(self._data / split / f"{label}/{number}.png")
        settings = [f"dataset.root={self._data}", "dataset.image_size=8", "dataset.workers=2", "model=mlp"]
        if settings[0] not in self._arguments:
            folder = ["dataset=image_folder", "dataset.cache=never", "experiment=none"]
            self._arguments = [*self._arguments, *folder, *settings]
            self._arguments.remove("experiment=digits")
            self._arguments += ["threads=1"]
