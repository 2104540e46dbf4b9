"""The command `drb study`: runs what is left of a study, and ends with its page."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from drb.checkpoint import CheckpointError
from drb.checkpoint.lock import lock_run
from drb.study.definition import Study, check_study, load_study
from drb.study.launch import LocalLaunch, run_study
from drb.study.options import numbers, parser_of_study
from drb.study.page import TABLE, write_page
from drb.study.results import Result, mixture, read_results, require_same_configs
from drb.study.slurm import Slurm, arrays_of, submit_study
from drb.study.smallest import check_within, smallest_capacities
from drb.study.statistics import by_point
from drb.study.tracked import open_tracked_study, publish, status_of_study, variables
from drb.tracking.study import StudyRun
from drb.tracking.tracker import status_of


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if every run is done, 1 if some failed or the study cannot be run as asked."""
    parser = parser_of_study()
    options, settings = parser.parse_known_args(list(arguments))
    try:
        if options.name is None:
            parser.print_help()
            return 0
        if odd := [text for text in settings if text.startswith("-") or "=" not in text]:
            raise ValueError(f"{odd[0]} is neither an option of drb study nor key=value; see drb study --help")
        study = load_study(options.name, settings, numbers("--ranks", options.ranks, least=1))
        if (seeds := numbers("--seeds", options.seeds, least=0)) is not None:
            study = study.with_seeds(seeds)
        options.out = options.out or Path("runs") / f"study-{study.name}"
        return _carry_out(study, options.out, options, settings)
    except (ValueError, CheckpointError) as error:
        print(f"drb: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drb: stopped; the same command goes on", file=sys.stderr)
        return 128 + signal.SIGINT


def _carry_out(study: Study, folder: Path, options: argparse.Namespace, settings: Sequence[str]) -> int:
    if options.within is not None:
        check_within(study.points, options.within)
    configs = check_study(study)
    slurm = _slurm(options) if options.slurm else None
    if options.dry_run:
        every_run = [Result(run, "open") for run in study.runs]
        arrays = [] if slurm is None else arrays_of(study, folder, every_run, slurm)
        submitted = [shlex.join(["sbatch", *array.command]) for array in arrays]
        print("\n".join(submitted or [run.command(options.launcher) for run in study.runs]))
        return 0
    results = read_results(study, folder)
    require_same_configs(results, configs, folder)
    if options.page:
        _require_some(study, results, folder)
        is_running = _is_running(folder)
        code = _finish(study, results, folder, open_tracked_study(study, folder), is_running=is_running)
        _name_smallest(results, options.within)
        return code
    launch = None if slurm is not None else LocalLaunch(options.launcher)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_run(folder, "drb study")
    tracked = open_tracked_study(study, folder)
    try:
        if slurm is not None and any(result.status != "done" for result in results):
            slurm = replace(slurm, environment=variables(study, tracked))
            submit_study(study, folder, results, slurm, _page_command(study, options, settings), _say)
            return 0
        if launch is not None:
            launch.environment |= variables(study, tracked)
            results = run_study(study, folder, launch, _say, options.launcher)
    except BaseException as error:
        if tracked is not None:
            tracked.end(status_of(error))
        raise
    lock.release()
    code = _finish(study, results, folder, tracked, is_running=False)
    _name_smallest(results, options.within)
    return code


def _name_smallest(results: Sequence[Result], within: float | None) -> None:
    """Say which capacity is the smallest that suffices, if that is asked for."""
    if within is not None:
        _say("\n".join(smallest_capacities(by_point(results), within)))


def _say(line: str) -> None:
    print(line, flush=True)


def _slurm(options: argparse.Namespace) -> Slurm:
    for name in ("ranks_per_node", "at_once"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    return Slurm(options.batch_file, shlex.split(options.sbatch), options.ranks_per_node, options.at_once)


def _page_command(study: Study, options: argparse.Namespace, settings: Sequence[str]) -> list[str]:
    """The command line that makes the page of the same study."""
    ranks = [] if options.ranks is None else [f"--ranks={options.ranks}"]
    seeds = f"--seeds={','.join(map(str, study.seeds))}"
    return ["study", options.name, f"--out={options.out}", seeds, *ranks, "--page", *settings]


def _is_running(folder: Path) -> bool:
    """Whether another process runs the study's runs here, or is about to submit them."""
    try:
        lock_run(folder, "drb study")
    except CheckpointError:
        return True
    return False


def _require_some(study: Study, results: Sequence[Result], folder: Path) -> None:
    if all(result.status == "open" for result in results):
        raise ValueError(f"{folder} holds no run of the study {study.name}; start it without --page")


def _finish(
    study: Study, results: Sequence[Result], folder: Path, tracked: StudyRun | None, *, is_running: bool
) -> int:
    """Write the page, also to the tracker, and say where it is and what is missing in it.

    is_running: another process is about to do more of it.
    """
    files = write_page(study, results, folder)
    table = (folder / TABLE).read_text(encoding="utf-8")
    complete = all(result.status == "done" for result in results)
    if tracked is not None:
        status = status_of_study(results, is_running=is_running)
        publish(tracked, by_point(results), files, f"{study.question}\n\n{table}", status)
    print(f"\n{table}\npage: {files[0]}" + ("" if tracked is None else "; in MLflow: drb dashboard"), flush=True)
    if mixed := mixture(results):
        print(f"drb: {mixed}", file=sys.stderr)
    failed = [result.run.name for result in results if result.status == "failed"]
    if failed:
        print(f"drb: error: {len(failed)} of {len(results)} runs failed: {', '.join(failed)}", file=sys.stderr)
    return 0 if complete else 1
