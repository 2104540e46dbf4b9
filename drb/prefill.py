"""Fill a folder from a data set, once, for all runs and ranks of a node to map: a cache of one's own, or a buffer's
stored samples.

    drb prefill DIR dataset=image_folder dataset.root=PICTURES [--capacity 50000]
    drb prefill DIR --forget 17,4711
    torchrun --nproc-per-node=N -m drb.prefill DIR dataset=… [--capacity …]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from drb.data.cache import erase, open_prefilled
from drb.data.cache.choose import choose_rows
from drb.data.cache.files import SPLITS, VERSION
from drb.data.cache.parallel import build_together
from drb.data.decoding.pool import close_decoders
from drb.data.load_on_all_ranks import load_on_all_ranks
from drb.data.source import Dataset, Source
from drb.distributed.agreement import check_same_settings
from drb.distributed.failure import PeerError
from drb.distributed.world import World, detect_world, open_world
from drb.machine import format_bytes, print_whatever_comes
from drb.program.config import compose_config
from drb.program.console import open_console
from drb.program.last_words import tell_launcher
from drb.program.run import dataset_of
from drb.runs.forget_command import read_ids, read_text

_GRACE_S = 3.0  # what rank 0 has to say an error that all ranks have

_EPILOG = """\
The settings are those of the data set, as for drb train. The ranks of a node share the work; every node fills a folder
on its own disk (where all nodes see one disk, start it on one node). Killed? The same command goes on where it was, on
any number of ranks. Then: rehearsal.prefilled=DIR draws exemplars from it, dataset=prefilled dataset.root=DIR trains on
it. docs/prefill.md has the whole story.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see drb prefill --help")


def prefill(options: argparse.Namespace, world: World, say: Callable[[str], None], timeout_s: float) -> Dataset:
    """Fill the folder and map it. Collective.

    Args:
        options: as `parse` returns them.
        say: told what a user should read, in lines.
        timeout_s: how long a rank may go without a heartbeat.
    Raises:
        ValueError: on all ranks, as `build_together` and `choose_rows`; data that cannot be read.
    """
    config, _ = compose_config(options.settings, "prefill")
    section = config.dataset
    if hasattr(section, "cache"):
        section = dataclasses.replace(section, cache="never")  # type: ignore[call-arg]
    config = dataclasses.replace(config, dataset=section)
    dataset = load_on_all_ranks(lambda: dataset_of(config, None), world, timeout_s)
    for note in dataset.notes:
        say(note)
    selection: dict[str, Any] = {}
    if options.capacity is not None:
        chosen = choose_rows(
            dataset.train.sample_ids,
            dataset.train.labels,
            options.capacity,
            record_bytes=dataset.sample_bytes,
            admission=options.admission,
            seed=options.seed,
        )
        selection = {"of": len(dataset.train), "admission": options.admission, "seed": options.seed}
        dataset = _part_of(dataset, dataset.train.subset(chosen), selection)
    if others := sorted(dataset.train.gather(np.zeros(1, np.int64)).keys() - {"image", "label", "sample_id"}):
        raise ValueError(f"a prefilled folder keeps images and labels, and these samples have {', '.join(others)}, too")
    facts = {
        "format": VERSION,
        "data": dataset.identity.fingerprint,
        "ids": {"train": _hash_of(dataset.train), "test": _hash_of(dataset.test)},
        **selection,
    }
    folder = options.folder.expanduser().absolute()
    filled = build_together(folder, dataset, facts, world, timeout_s, say, leave_out_broken=options.leave_out_broken)
    close_decoders()
    return filled


def _part_of(dataset: Dataset, train: Source, selection: dict[str, Any]) -> Dataset:
    identity = dataclasses.replace(
        dataset.identity,
        parts={**_other_parts(dataset), "train": [len(train), _hash_of(train)]},
        decoding={**dataset.identity.decoding, **selection},
    )
    return dataclasses.replace(dataset, train=train, identity=identity)


def _other_parts(dataset: Dataset) -> dict[str, Any]:
    """The parts of an identity without those of the training samples."""
    return {name: part for name, part in dataset.identity.parts.items() if name.partition("/")[0] != "train"}


def _hash_of(source: Source) -> str:
    digest = blake2b(digest_size=8)
    for column in (source.sample_ids, source.labels):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What a command line asks for: folder, capacity, admission, seed, leave_out_broken and settings.

    Raises:
        ValueError: one sentence.
    """
    parser = _Parser(prog="drb prefill", description=__doc__.partition("\n\n")[0], epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to fill, on local disk")
    parser.add_argument(
        "--capacity", metavar="N", help="keep so many training samples: a number, 20GiB or 30%%; by default all"
    )
    parser.add_argument(
        "--admission", default="reservoir", help="which ones: reservoir (uniform, the default) or class_balanced"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--leave-out-broken", action="store_true", help="go without samples that cannot be read")
    parser.add_argument(
        "--forget", metavar="IDS", help="erase these samples from a folder that is filled: ids, separated by commas"
    )
    parser.add_argument("--forget-file", type=Path, metavar="FILE", help="the same, with the ids in a file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the data set")
    options = parser.parse_intermixed_args(list(arguments))
    if _is_setting(str(options.folder)):
        raise ValueError("name the folder to fill first: drb prefill DIR dataset=…; see drb prefill --help")
    if options.forget is not None or options.forget_file is not None:
        if options.settings or options.capacity is not None:
            raise ValueError("drb prefill DIR --forget takes ids and nothing else: it erases, and fills nothing")
        return options
    for setting in options.settings:
        if not _is_setting(setting):
            raise ValueError(f"drb prefill takes settings of the data set, dataset=… and dataset.…, not {setting}")
    if not any(setting.startswith("dataset=") for setting in options.settings):
        raise ValueError("say which data set, for example dataset=image_folder dataset.root=PICTURES")
    return options


def _is_setting(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.partition(".")[0] in ("dataset", "timeout_s")


def forget(folder: Path, sample_ids: Sequence[int]) -> str:
    """Erase samples from a folder that is filled, for good; returns what was done, in words.

    Of each id that is of a training sample; or else of a test sample. Runs go on without them.

    Raises:
        ValueError: the folder is not filled, or an id below 0.
    """
    folder = folder.expanduser().absolute()
    dataset = open_prefilled(folder)
    ids = np.unique(np.asarray(sample_ids, np.int64))
    of = {split: np.intersect1d(ids, getattr(dataset, split).sample_ids) for split in SPLITS}
    of["test"] = np.setdiff1d(of["test"], of["train"])
    erased = {split: erase(folder, found, split) for split, found in of.items()}
    done = sum(erased.values())
    held = sum(map(len, of.values()))
    told = f"{folder}: {erased['train']} training and {erased['test']} test samples were erased"
    told += f"; {held - done} had been erased before" if held > done else ""
    return told + (f"; it does not hold {len(ids) - held} of the ids" if held < len(ids) else "")


def _forget(options: argparse.Namespace, world: World) -> None:
    if world.world_size > 1:
        raise ValueError("start drb prefill --forget by itself, once on each node that has the folder")
    ids = read_ids(options.forget or "", "--forget")
    if options.forget_file is not None:
        ids += read_ids(read_text(options.forget_file), str(options.forget_file))
    print(forget(options.folder, ids))
    print("what runs have taken from it is in their checkpoints: drb forget RUN_DIR --ids … removes it there")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `drb prefill`; returns the exit code."""
    print_whatever_comes()
    rank = 0
    try:
        world = detect_world("cpu")
        rank = world.rank
        options = parse(sys.argv[1:] if arguments is None else arguments)
        if options.forget is not None or options.forget_file is not None:
            _forget(options, world)
            return 0
        console = open_console(world, of_all_ranks=False)
        say = (lambda line: None) if console is None else console.say
        with open_world(world, _timeout_s(options)):
            check_same_settings(_as_text(options), world)
            dataset = prefill(options, world, say, _timeout_s(options))
            size = sum(len(source) for source in (dataset.train, dataset.test)) * dataset.sample_bytes
            say(
                f"{dataset.cache}: {len(dataset.train)} training and {len(dataset.test)} test samples, "
                f"{format_bytes(size)}"
            )
    except (ValueError, PeerError, OSError) as error:
        line = f"drb: error: {' '.join(str(error).split())}"
        if rank:
            time.sleep(_GRACE_S)  # mostly rank 0 says the same, and the launcher ends the others
        print(line, file=sys.stderr, flush=True)
        tell_launcher(line)
        return 1
    return 0


def _timeout_s(options: argparse.Namespace) -> float:
    config, _ = compose_config(options.settings, "prefill")
    return config.timeout_s


def _as_text(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) for name, value in vars(options).items()}


if __name__ == "__main__":
    sys.exit(main())
