"""The command `drb plan`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from drb.distributed.agreement import check_same_settings
from drb.distributed.failure import PeerError
from drb.distributed.world import detect_world, open_world
from drb.plan.measure import Measurement, measure
from drb.plan.report import describe
from drb.program.config import check_config, compose_config
from drb.program.run import dataset_of
from drb.program.summary import write_atomically

HELP = """\
drb plan: whether rehearsal is overlapped with training, what it costs, and what memory it takes.

    torchrun --nproc-per-node=N -m drb.plan [key=value ...]     measure on these ranks (also mpirun, srun)
    drb plan [key=value ...]                                    measure on one rank

Settings are those of `drb train`. Steps of the configured network are timed on noise shaped like the data, with
rehearsal and without, in turn.

    --seconds S        of measuring (20)
    --json FILE        write what was measured
"""
_GRACE_S = 5.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see drb plan --help")


def main(arguments: Sequence[str]) -> int:
    """Measure and print the answer on rank 0; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
        return 0
    rank = 0
    try:
        rank = detect_world("cpu", may_be_alone=True).rank
        seconds, file, settings = _parse(arguments)
        found = _measure(seconds, settings)
        if rank == 0:
            print(describe(found), flush=True)
            if file is not None:
                write_atomically(file, dataclasses.asdict(found))
    except (ValueError, PeerError, OSError) as error:
        if rank:
            time.sleep(_GRACE_S)  # rank 0 says the same
        print(f"drb: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
    return 0


def _measure(seconds: float, settings: Sequence[str]) -> Measurement:
    config, _ = compose_config(settings, "plan")
    _require_shape(settings)
    world = detect_world(config.device, may_be_alone=True)
    check_config(config, world.world_size)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with open_world(world, config.timeout_s, config.start_timeout_s):
        check_same_settings({"settings": list(settings), "seconds": seconds}, world)
        return measure(config, dataset_of(config, None), world, seconds)


def _require_shape(settings: Sequence[str]) -> None:
    """Raise ValueError if noise stands in for an experiment's data and nobody has said of which shape."""
    given = dict(setting.partition("=")[::2] for setting in settings)
    experiment = given.get("experiment", "none")
    is_stand_in = given.get("dataset") == "synthetic" and experiment not in ("none", "synthetic")
    if is_stand_in and "dataset.image_shape" not in given:
        raise ValueError(
            f"dataset=synthetic stands in for the data of experiment={experiment}: say its shape, for example "
            "'dataset.image_shape=[3,224,224]'"
        )


def _parse(arguments: Sequence[str]) -> tuple[float, Path | None, list[str]]:
    """The seconds, the file to write and the settings; raises ValueError with one sentence."""
    parser = _Parser(prog="drb plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    given, settings = parser.parse_known_args(list(arguments))
    for setting in settings:
        if setting.startswith("-") or "=" not in setting:
            raise ValueError(f"{setting} is neither an option nor key=value; see drb plan --help")
    if not given.seconds > 0:
        raise ValueError(f"--seconds must be above 0, got {given.seconds:g}")
    return given.seconds, given.json, settings
