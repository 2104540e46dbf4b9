"""`drb update`, and the same from Python."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drb.distributed.world import detect_world
from drb.program.config import check_config, compose_config
from drb.runs.lineage.gates import Gates, read_gates
from drb.runs.lineage.record import Version
from drb.train import main as train
from drb.train import run_job
from drb.update.follow import follow
from drb.update.planning import plan
from drb.update.request import Request, read_eval_sets

_DESCRIPTION = """\
New data arrived: train a model on it, judge it, and promote it or keep it aside, as one line of a lineage."""
_EPILOG = """\
All other arguments are settings of training, as for drb train (see drb train --help); a lineage keeps them, and a later
update may change those that a resumed run may change. Killed? The same command goes on, on any number of ranks.
docs/update.md walks through ten days of updates.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `drb update`; returns the exit code."""
    options = _parser().parse_intermixed_args(list(sys.argv[1:] if arguments is None else arguments))
    if options.data is not None:
        return train([], lambda: plan(_request(options)))
    return follow(lambda: _request(options))


def update(
    state: str | Path,
    data: str | Path,
    *,
    base: str | Path | None = None,
    settings: Sequence[str] = (),
    eval_sets: Mapping[str, str | Path] | None = None,
    gates: Gates | None = None,
    export: bool = False,
) -> Version | None:
    """Train the current version of a model on new data with rehearsal, judge it, and promote it or keep it aside.

    Under a launcher every rank calls it with the same arguments.

    Args:
        state: the folder of the lineage, which the first update makes.
        data: the new samples, see `drb.data.datasets.arrivals`.
        base: a folder that drb prefill has filled, which a new lineage rehearses from, or mixes with the new samples.
        settings: of training, as for drb train: ["model=mlp", "training.epochs=2"]. The lineage keeps them.
        eval_sets: paths of evaluation sets by name, besides `base` and `new`. The lineage keeps them.
        gates: {"base": {"may_fall": 0.5}, "new": {"must_reach": 90}}, points and percent. The lineage keeps them.
        export: also write the network as model.pt2 (torch.export).
    Returns:
        What was recorded, on rank 0; None on others.
    Raises:
        ValueError: something that cannot be used, as one line; `current` stays where it was.
    """
    named = {name: str(Path(path).expanduser().absolute()) for name, path in (eval_sets or {}).items()}
    start = None if base is None else Path(base)
    job = plan(Request(Path(state), Path(data), named, gates=gates or {}, settings=settings, export=export, base=start))
    arguments = job.arguments()
    config, run_dir = compose_config(arguments, detect_world("cpu").run_id or None)
    check_config(config, detect_world("cpu").world_size)
    world = detect_world(config.device)
    run_job(config, run_dir, world, arguments, job if world.is_main else None)
    return job.lineage.versions[-1] if world.is_main else None


def _request(options: argparse.Namespace) -> Request:
    gates = read_gates(options.may_fall, options.must_reach)
    asked = Request(
        options.state,
        options.data,
        read_eval_sets(options.eval),
        gates=gates,
        settings=options.settings,
        export=options.export,
        base=options.base,
        stream={} if options.data is not None else _stream_of(options),
    )
    return asked.over(options.config)


def _stream_of(options: argparse.Namespace) -> dict[str, Any]:
    given = {"function": options.stream, "every": options.every, "states": options.states}
    return {name: value for name, value in given.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drb update", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="the folder of the lineage")
    parser.add_argument("--data", type=Path, metavar="PATH", help="the new samples; docs/update.md says of which kinds")
    parser.add_argument(
        "--base", type=Path, metavar="DIR", help="a folder that drb prefill has filled, to begin a lineage from"
    )
    parser.add_argument(
        "--stream", metavar="MODULE.FUNCTION", help="instead of --data: what returns an iterable without an end"
    )
    parser.add_argument("--every", type=int, metavar="N", help="samples of the stream that make a state")
    parser.add_argument("--states", type=int, metavar="N", help="end when the stream has given so many states")
    parser.add_argument("--eval", action="append", default=[], metavar="NAME=PATH", help="an evaluation set")
    parser.add_argument(
        "--may-fall", action="append", default=[], metavar="NAME=POINTS", help="a gate: what a set may lose"
    )
    parser.add_argument(
        "--must-reach", action="append", default=[], metavar="NAME=PERCENT", help="a gate: what a set must reach"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with eval_sets, gates and settings")
    parser.add_argument("--export", action="store_true", help="also write the network as model.pt2 (torch.export)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of training")
    return parser
