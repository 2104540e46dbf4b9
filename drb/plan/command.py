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
from drb.plan.fabric import Fabric, measure_fabric, slow_links
from drb.plan.fabric_report import describe_fabric
from drb.plan.measure import Measurement, measure
from drb.plan.report import describe
from drb.program.config import check_config, compose_config
from drb.program.run import dataset_of
from drb.program.summary import write_atomically

HELP = """\
drb plan: whether rehearsal is overlapped with training, what it costs, and what memory it takes.

    torchrun --nproc-per-node=N -m drb.plan [key=value ...]     measure on these ranks (also mpirun, srun)
    drb plan [key=value ...]                                    measure on one rank
    torchrun --nproc-per-node=N -m drb.plan --fabric            check the links between these ranks; exit code 1 if one
                                                                is slow

Settings are those of `drb train`. Steps of the configured network are timed on noise shaped like the data, with
rehearsal and without, in turn.

    --seconds S        of measuring (20)
    --json FILE        write what was measured
    --fabric           messages between all ranks, and the collectives that drb uses, instead of steps
"""
_GRACE_S = 5.0
_MESSAGE_S = 30.0  # how long a message of --fabric may take


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
        options, settings = _parse(arguments)
        found, text, code = _check_fabric(settings) if options.fabric else _time_steps(options.seconds, settings)
        if rank == 0:
            print(text, flush=True)
            if options.json is not None:
                write_atomically(options.json, dataclasses.asdict(found))
        return code
    except (ValueError, PeerError, OSError) as error:
        if rank:
            time.sleep(_GRACE_S)  # rank 0 says the same
        print(f"drb: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1


def _check_fabric(settings: Sequence[str]) -> tuple[Fabric, str, int]:
    """What was measured, that in words, and the exit code."""
    config, _ = compose_config(settings, "plan")
    world = detect_world(config.device, may_be_alone=True)
    with open_world(world, config.timeout_s, config.start_timeout_s):
        check_same_settings({"settings": list(settings)}, world)
        found = measure_fabric(world, min(config.timeout_s, _MESSAGE_S))
    return found, describe_fabric(found), 1 if slow_links(found) else 0


def _time_steps(seconds: float, settings: Sequence[str]) -> tuple[Measurement, str, int]:
    config, _ = compose_config(settings, "plan")
    _require_shape(settings)
    world = detect_world(config.device, may_be_alone=True)
    check_config(config, world.world_size)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with open_world(world, config.timeout_s, config.start_timeout_s):
        check_same_settings({"settings": list(settings), "seconds": seconds}, world)
        found = measure(config, dataset_of(config, None), world, seconds)
    return found, describe(found), 0


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


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options and the settings; raises ValueError with one sentence."""
    parser = _Parser(prog="drb plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fabric", action="store_true")
    given, settings = parser.parse_known_args(list(arguments))
    for setting in settings:
        if setting.startswith("-") or "=" not in setting:
            raise ValueError(f"{setting} is neither an option nor key=value; see drb plan --help")
    if not given.seconds > 0:
        raise ValueError(f"--seconds must be above 0, got {given.seconds:g}")
    return given, settings
