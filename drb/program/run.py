"""One run from a checked configuration: builds the parts, trains, and leaves the results in the run directory.

Rank 0 alone speaks and writes `config.yaml` before training, `summary.json` (and plots) after it; checkpoints are
written by all ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from drb.checkpoint import Checkpointer, Saved, StopSignals
from drb.data.cache import write_run_file
from drb.data.check import check_dataset, notes_on
from drb.data.datasets import Dataset, DatasetBuilder
from drb.data.decoding.pool import close_decoders
from drb.data.identity import Identity
from drb.data.load_on_all_ranks import load_on_all_ranks
from drb.distributed.agreement import check_same_settings, value_of_main
from drb.distributed.failure import naming_failures
from drb.distributed.sharing import require_own_devices, require_same_software, require_shared_folder
from drb.distributed.world import World, open_world
from drb.program.build import build_trainer
from drb.program.changed_data import CHANGED, TASKS, saved_identity, tasks_of, with_data_of_now
from drb.program.claim import claim, is_finished
from drb.program.config import TrainConfig, to_yaml
from drb.program.config.resume import require_same_config, require_same_past
from drb.program.config.variants import build_variant
from drb.program.console import open_console, warn_of_threads
from drb.program.energy import EnergyMeter
from drb.program.mix_ledger import write_ledger
from drb.program.outputs import names_of_strata, outputs_of
from drb.program.profiling import Profiler
from drb.program.rehearsal_ledger import RunLedger
from drb.program.strata import with_strata
from drb.program.summary import summarise, versions, write_atomically, write_summary
from drb.program.tracker_run import data_of, open_tracker_of, tags_of
from drb.program.trained import save_trained_network
from drb.rehearsal.rehearsal import Rehearsal
from drb.runs.forget import CheckpointPurge
from drb.tracking import Tracker
from drb.training import Monitor, Trainer
from drb.training.models.outputs import OUTPUTS
from drb.training.reporting.monitor import Console

_FACTS = {"config": dict, "tracking_run_id": (str, type(None))}  # what a checkpoint must know of its run


def run(config: TrainConfig, run_dir: Path, world: World, arguments: Sequence[str] = ()) -> None:
    """Train as configured. Collective: every rank of the world calls it.

    Args:
        run_dir: the run's files; rank 0's counts, on all ranks.
        arguments: of the command line, for the summary.
    Raises:
        ValueError: data, model or scenario cannot be had as configured.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    console = open_console(world, of_all_ranks=config.console == "all")
    if console is None:
        _be_silent()
    stage = _Stage(world)
    with open_world(world, config.timeout_s, config.start_timeout_s), ExitStack() as stack, stage.naming_failures():
        # each rank makes up a run_id and with it a directory, unless they are given: rank 0's count
        require_same_software(world)
        check_same_settings({**dataclasses.asdict(config), "run_id": None}, world)
        require_own_devices(world)
        run_dir = Path(value_of_main("run_dir", str(run_dir), world))
        lock = claim(run_dir, world, config.timeout_s)
        if is_finished(config, run_dir, world):
            if console is not None:
                console.say(f"this run is finished: {run_dir / 'summary.json'}; checkpoint.resume=never starts it anew")
            return
        if config.checkpoint.enabled:
            require_shared_folder(run_dir, world, config.timeout_s)
        checkpointer = _open_checkpoints(config, run_dir, world, console, stack)
        saved = _find_checkpoint(config, checkpointer)
        if saved is not None and saved.path.resolve().is_relative_to(run_dir.resolve()):
            config = dataclasses.replace(config, run_id=saved.facts["config"].get("run_id", config.run_id))
        if world.is_main:
            write_atomically(run_dir / "config.yaml", to_yaml(config))
        tracker = stack.enter_context(open_tracker_of(config, run_dir, world, saved))
        if console is not None:
            console.say(_headline(config, world, run_dir))
            warn_of_threads(world, console.say)
        tracker.log_params({**dataclasses.asdict(config), "world_size": world.world_size})
        if world.is_main:
            tracker.log_tags(tags_of(config, world, arguments))
        stage.where = lambda: "data"
        known = None if saved is None else saved_identity(saved)
        dataset = load_on_all_ranks(partial(dataset_of, config, console, known), world, config.timeout_s)
        dataset = with_strata(dataset, config.strata, world, config.seed)
        stack.callback(close_decoders)
        tracker.log_dataset(data_of(config, dataset))
        ledger = RunLedger()
        outputs = outputs_of(config, dataset)
        if checkpointer is not None:
            if saved is not None and known is not None:
                saved = with_data_of_now(saved, known, dataset, config, checkpointer, console)
            facts = {"config": dataclasses.asdict(config), "tracking_run_id": tracker.run_id, "versions": versions()}
            data = {
                "data": dataset.identity.to_json(),
                TASKS: tasks_of(config, dataset),
                OUTPUTS: None if outputs is None else dataclasses.asdict(outputs),
            }
            checkpointer.begin_run({**facts, **data}, partial(_start_flush, tracker, ledger))
        if world.is_main:
            write_run_file(run_dir, dataset.cache, config.rehearsal.prefilled)
        with ExitStack() as training:
            profiler = _open_profiler(config, run_dir, world, console, training)
            on_step = None if profiler is None else profiler.step
            monitor = Monitor(console, tracker, class_names=names_of_strata(config, outputs))
            trainer, rehearsal = build_trainer(config, world, dataset, monitor, checkpointer, on_step, training)
            if saved is not None:
                _take_up(saved, trainer, console)
                saved = None  # it may hold samples: what is forgotten must not stay in memory
            if world.is_main:
                write_ledger(run_dir, config, dataset, trainer)
            ledger.begin(run_dir, rehearsal, trainer, world, log=config.ledger, run_id=config.run_id)
            if rehearsal is not None and checkpointer is not None:
                rehearsal.forget_observers.append(CheckpointPurge(checkpointer))
            stage.where = lambda: trainer.whereabouts
            before = trainer.progress.rows
            # failures are announced before the rehearsal and the tracker take their time to close
            with EnergyMeter(world, None if console is None else console.say) as meter, stage.naming_failures():
                trainer.run()
            energy = meter.total(trainer.progress.rows - before)
            stats = None if rehearsal is None else rehearsal.stats()
            kept, pictures = _kept(config, dataset, trainer, rehearsal, world, run_dir)
        ledger.finish()
        if world.is_main:
            costs = None if checkpointer is None else dataclasses.asdict(checkpointer.tally)
            summary = summarise(config, trainer, stats, costs, energy, dataset.identity.fingerprint, world, arguments)
            assert console is not None
            summary |= {} if kept is None else {"kept": kept}
            files = save_trained_network(run_dir, config, dataset, trainer.evaluated_network, console.say)
            write_summary(run_dir / "summary.json", summary)
            _publish(config, summary, run_dir, tracker, pictures)
            if files:
                tracker.log_model(f"{config.strategy.name}-{config.model.name}", files, trainer.steps)
            console.say(f"summary: {run_dir / 'summary.json'}" + "".join(f"; network: {file}" for file in files[:1]))
        if lock is not None:
            lock.release()


def _start_flush(tracker: Tracker, ledger: RunLedger) -> Callable[[], None]:
    """Begin to write what was logged; returns what waits until it is there."""
    waits = [tracker.start_flush(), ledger.start_flush()]

    def wait() -> None:
        for each in waits:
            each()

    return wait


class _Stage:
    """What this rank is doing, for messages about failures."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.where: Callable[[], str] = lambda: "start"

    def naming_failures(self) -> contextlib.AbstractContextManager[None]:
        return naming_failures(range(self._world.world_size), lambda: self.where())


def _open_checkpoints(
    config: TrainConfig, run_dir: Path, world: World, console: Console | None, stack: ExitStack
) -> Checkpointer | None:
    if not config.checkpoint.enabled:
        return None
    signals = stack.enter_context(StopSignals(config.checkpoint.signals))
    say = None if console is None else console.say
    checkpointer = Checkpointer(config.checkpoint, run_dir, world, signals=signals, timeout_s=config.timeout_s, say=say)
    return stack.enter_context(checkpointer)


def _open_profiler(
    config: TrainConfig, run_dir: Path, world: World, console: Console | None, stack: ExitStack
) -> Profiler | None:
    if not (config.profile and world.is_main and console is not None):
        return None
    file = run_dir / "profile" / f"rank-{world.rank}.trace.json.gz"
    return stack.enter_context(Profiler(config.profiling, file, console.say))


def _find_checkpoint(config: TrainConfig, checkpointer: Checkpointer | None) -> Saved | None:
    saved = None if checkpointer is None else checkpointer.find(_FACTS)
    if saved is not None:
        position = saved.state["trainer"]["position"]
        begun = int(position["task"]) + bool(position["begun"])
        before, now = saved.facts["config"], dataclasses.asdict(config)
        require_same_config(before, now, str(saved.path), begun)
        require_same_past(before, now, str(saved.path), int(saved.state["trainer"]["steps"]))
    return saved


def _take_up(saved: Saved, trainer: Trainer, console: Console | None) -> None:
    trainer.load_state_dict(saved.state)
    if CHANGED in saved.facts:
        trainer.position.begin_epoch_anew()
    if console is not None:
        console.say(f"resumed from {saved.path}: task {trainer.position.task + 1}, {trainer.steps} steps done")


def dataset_of(config: TrainConfig, console: Console | None, known: Identity | None = None) -> Dataset:
    """The configured data set, decoded first if it is to be cached. known: what the run had before.

    With a key for checkpoints nothing is cached: the cache would hold the images unencrypted.
    """
    section = config.dataset
    if config.checkpoint.key_file is not None and getattr(section, "cache", "never") != "never":
        section = dataclasses.replace(section, cache="never")  # type: ignore[call-arg]
    if hasattr(section, "root"):
        section = dataclasses.replace(section, root=os.path.expanduser(section.root))  # type: ignore[call-arg]
    builder: DatasetBuilder = build_variant("dataset", section)
    say = (lambda line: None) if console is None else console.say
    try:
        dataset = builder.load(say, known.classes if known else ())
    except OSError as error:
        where = f" from dataset.root={section.root}" if hasattr(section, "root") else ""
        raise ValueError(f"dataset={section.name} cannot be loaded{where}: {error}") from error
    check_dataset(dataset)
    for note in notes_on(dataset):
        say(note)
    return dataset


def _kept(
    config: TrainConfig, dataset: Dataset, trainer: Trainer, rehearsal: Rehearsal | None, world: World, run_dir: Path
) -> tuple[dict[str, Any] | None, list[Path]]:
    """How what is stored differs from the data, and pictures of it. Collective."""
    if config.kept == "none" or rehearsal is None:
        return None, []
    from drb.program.kept import KeptSet

    kept = KeptSet(config, dataset, trainer, rehearsal, world)
    return kept.numbers(), kept.pictures(run_dir) if config.kept == "pictures" else []


def _publish(
    config: TrainConfig, summary: dict[str, Any], run_dir: Path, tracker: Tracker, pictures: Sequence[Path]
) -> None:
    """Plots and the summary, also to the tracker."""
    files = [run_dir / "summary.json", run_dir / "config.yaml", *pictures]
    if config.tracking.plots:
        from drb.runs.report.plots import save_plots  # imports matplotlib, which takes a second

        files += save_plots([summary], run_dir)
    for file in files:
        tracker.log_artifact(file)


def _headline(config: TrainConfig, world: World, run_dir: Path) -> str:
    ranks = "1 rank" if world.world_size == 1 else f"{world.world_size} ranks"
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    name, strategy = config.run_name, config.strategy.name
    method = "+".join([name if name == strategy else f"{name}: {strategy}", *config.terms])
    return (
        f"{method} on {config.dataset.name} ({config.scenario.name}), {config.model.name}, {ranks} on {device}, seed "
        f"{config.seed}, in {run_dir}"
    )


def _be_silent() -> None:
    """Ranks above 0 would repeat what rank 0 says."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
