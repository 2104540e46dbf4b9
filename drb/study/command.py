"""The command `drb study`: runs what is left of a study, and ends with its page."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from drb.checkpoint import CheckpointError
from drb.checkpoint.lock import lock_run
from drb.program.config.studies import question_of, study_files
from drb.study.definition import Study, check_study, load_study
from drb.study.launch import LAUNCHERS, LocalLaunch, run_study
from drb.study.page import TABLE, write_page
from drb.study.results import Result, mixture, read_results, require_same_configs
from drb.study.statistics import by_point
from drb.study.tracked import open_tracked_study, publish, variables
from drb.tracking.study import StudyRun


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if every run is done, 1 if some failed or the study cannot be run as asked."""
    parser = _parser()
    options, settings = parser.parse_known_args(list(arguments))
    try:
        if options.name is None:
            parser.print_help()
            return 0
        if odd := [text for text in settings if text.startswith("-") or "=" not in text]:
            raise ValueError(f"{odd[0]} is neither an option of drb study nor key=value; see drb study --help")
        study = load_study(options.name, settings)
        if options.seeds is not None:
            study = study.with_seeds(_seeds(options.seeds))
        folder = options.out or Path("runs") / f"study-{study.name}"
        return _carry_out(study, folder, options)
    except (ValueError, CheckpointError) as error:
        print(f"drb: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drb: stopped; the same command goes on", file=sys.stderr)
        return 128 + signal.SIGINT


def _carry_out(study: Study, folder: Path, options: argparse.Namespace) -> int:
    configs = check_study(study)
    if options.dry_run:
        for run in study.runs:
            print(run.command)
        return 0
    results = read_results(study, folder)
    require_same_configs(results, configs, folder)
    if options.page:
        _require_some(study, results, folder)
        return _finish(study, results, folder, open_tracked_study(study, folder))
    launch = LocalLaunch(options.launcher)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_run(folder, "drb study")
    tracked = open_tracked_study(study, folder)
    launch.environment |= variables(study, tracked)
    try:
        results = run_study(study, folder, launch, lambda line: print(line, flush=True))
    except BaseException:
        if tracked is not None:
            tracked.end(complete=False)
        raise
    lock.release()
    return _finish(study, results, folder, tracked)


def _require_some(study: Study, results: Sequence[Result], folder: Path) -> None:
    if all(result.status == "open" for result in results):
        raise ValueError(f"{folder} holds no run of the study {study.name}; start it without --page")


def _finish(study: Study, results: Sequence[Result], folder: Path, tracked: StudyRun | None) -> int:
    """Write the page, also to the tracker, and say where it is and what is missing in it."""
    files = write_page(study, results, folder)
    table = (folder / TABLE).read_text(encoding="utf-8")
    complete = all(result.status == "done" for result in results)
    if tracked is not None:
        publish(tracked, by_point(results), files, f"{study.question}\n\n{table}", complete)
    print(f"\n{table}\npage: {files[0]}" + ("" if tracked is None else "; in MLflow: drb dashboard"), flush=True)
    if mixed := mixture(results):
        print(f"drb: {mixed}", file=sys.stderr)
    failed = [result.run.name for result in results if result.status == "failed"]
    if failed:
        print(f"drb: error: {len(failed)} of {len(results)} runs failed: {', '.join(failed)}", file=sys.stderr)
    return 0 if complete else 1


def _seeds(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"--seeds must be whole numbers with commas between, as in 0,1,2, got {text!r}")
    return [int(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    known = {name: question_of(path) for name, path in study_files().items()}
    width = max(map(len, known)) + 2
    lines = [
        textwrap.fill(f"{name:{width}}{question}", 100, initial_indent="  ", subsequent_indent=" " * (width + 2))
        for name, question in known.items()
    ]
    epilog = "studies:\n" + "\n".join(lines) + "\n\n" + _EPILOG
    parser = argparse.ArgumentParser(
        prog="drb study",
        usage="drb study NAME [options] [key=value ...]",
        description="Train at several points and over several seeds, and compare them on one page.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a study below, or a YAML file of your own")
    parser.add_argument("--seeds", metavar="0,1,2", help="other seeds than the study's")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where its files go (default runs/study-NAME)")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="torchrun", help="what starts the ranks of a run")
    parser.add_argument("--page", action="store_true", help="make the page of what is done, and start nothing")
    parser.add_argument("--dry-run", action="store_true", help="print the command of each run, and start nothing")
    return parser


_EPILOG = """\
key=value changes a setting of all runs, for example dataset=cifar10. A study that was stopped goes on with the same
command: what is done is not done again, and what failed is tried again.
"""
