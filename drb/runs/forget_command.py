"""Remove samples from all checkpoints of a stopped run."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from drb.buffer.admission import ADMISSIONS
from drb.checkpoint import read_key
from drb.registry import UnnamedVariantError
from drb.runs.forget import Purged, cache_of_run, forget_in_run
from drb.runs.learnt import learnt_from
from drb.runs.pictures import ids_of_pictures

_EPILOG = """\
The samples are removed from the buffers in every checkpoint, and from the cache of the data set if the run read one.
They are not stored again when the run goes on. docs/retention.md says what is promised and what is not.
"""


def main(arguments: Sequence[str]) -> int:
    """Run `drb forget`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="drb forget", description=__doc__, epilog=_EPILOG)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the directory of a run that is not running")
    parser.add_argument("--ids", help="sample ids, separated by commas")
    parser.add_argument("--ids-file", type=Path, metavar="FILE", help="sample ids, separated by commas or white space")
    parser.add_argument(
        "--file", action="append", metavar="CLASS/NAME", help="a training picture of dataset=image_folder, by its path"
    )
    parser.add_argument(
        "--where",
        action="append",
        metavar="FIELD=VALUE[,VALUE]",
        help="samples whose field has one of these values; given several times, all must hold",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and change nothing")
    parser.add_argument("--keep-cache", action="store_true", help="leave the cache of the data set as it is")
    parser.add_argument(
        "--yes", action="store_true", help="do not ask before a cache is erased from which other runs read their images"
    )
    parser.add_argument("--key-file", metavar="FILE", help="the key of encrypted checkpoints (checkpoint.key_file)")
    parser.add_argument(
        "--admission",
        metavar="PACKAGE.MODULE.CLASS",
        help="the admission policy of the run, if it is a class of your own (rehearsal.admission)",
    )
    options = parser.parse_args(arguments)
    try:
        ids = read_ids(options.ids or "", "--ids")
        if options.ids_file is not None:
            ids += read_ids(read_text(options.ids_file), str(options.ids_file))
        key = None if options.key_file is None else read_key(options.key_file)
        ids += ids_of_pictures(options.run_dir, options.file, key) if options.file else []
        where = dict(map(_condition, options.where)) if options.where else None
        if not ids and where is None:
            raise ValueError("nothing to forget: give --ids, --ids-file, --file or --where")
        if options.admission is not None:
            ADMISSIONS.find(options.admission)
        if not (options.dry_run or options.keep_cache or options.yes):
            _confirm(options.run_dir)
        purged = forget_in_run(
            options.run_dir, ids, where=where, key=key, erase_cache=not options.keep_cache, dry_run=options.dry_run
        )
    except (ValueError, OSError) as error:
        hint = f"; add --admission {error.name}" if isinstance(error, UnnamedVariantError) else ""
        print(f"drb: error: {error}{hint}", file=sys.stderr)
        return 1
    if purged.checkpoints or purged.erased:
        print(_learnt(options.run_dir, purged))
    _report(purged, options.where or (), dry_run=options.dry_run)
    return 0


def _learnt(run_dir: Path, purged: Purged) -> str:
    """A line that says which weights have learnt from the samples, which stay as they are."""
    try:
        return learnt_from(run_dir, purged.sample_ids)
    except (ValueError, OSError) as error:
        return f"which weights have learnt from these samples cannot be said: {error}"


def _confirm(run_dir: Path) -> None:
    """Ask before the cache of images is erased, which is not the run's alone.

    Without a terminal nobody can be asked: the cache of a run's own is erased, that of the run it is a copy of is not.

    Raises:
        ValueError: the answer is no, or nobody is there to give it.
    """
    cache = cache_of_run(run_dir)
    if cache is None:
        return
    ways = "--keep-cache leaves it as it is, --yes erases the samples there"
    whose = f"{run_dir} is a copy of {cache.original} and reads the same cache, {cache.path}"
    if not sys.stdin.isatty():
        if cache.original is not None:
            raise ValueError(f"{whose}: {ways}")
        return
    if cache.original is None:
        whose = f"the cache {cache.path} may be read by other runs, too"
    if input(f"{whose}. Erase the samples there, for good? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError(f"nothing was changed: {ways}")


def _report(purged: Purged, conditions: Sequence[str], *, dry_run: bool) -> None:
    """Print what was removed, or would be."""
    if purged.checkpoints:
        for path in purged.checkpoints:
            print(f"{'would be ' if dry_run else ''}rewritten: {path}")
        denied = f"{_was_or_would(purged.sample_ids.size, 'sample id', dry_run, 'are')} denied"
        removed = f"{_was_or_would(purged.removed, 'stored exemplar', dry_run)} removed"
        where = f" from {_counted(len(purged.checkpoints), 'checkpoint')}"
        print(f"{denied}{'' if dry_run else ' from now on'}; {removed}{where if purged.removed else ''}")
    elif not purged.erased and conditions and not purged.num_named:
        print(f"nothing to do: no stored exemplar has {' and '.join(conditions)}")
    elif not purged.erased:
        ids = "this sample id" if purged.num_named == 1 else f"these {purged.num_named} sample ids"
        nothing = f", and no stored exemplar has {' and '.join(conditions)}" if conditions else ""
        print(f"nothing to do: the checkpoints deny {ids} already{nothing}")
    if purged.erased:
        print(f"{_was_or_would(purged.erased, 'sample', dry_run)} erased from the cache of the data set")
    if purged.still_there:
        lie = "sample lies" if purged.still_there == 1 else "samples lie"
        print(
            f"{purged.still_there} {lie} in the prefilled folder {purged.prefilled} still, from which other runs draw; "
            f"drb prefill {purged.prefilled} --forget IDS erases them there, too"
        )
    if dry_run:
        print("nothing was changed (--dry-run)")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _was_or_would(count: int, what: str, dry_run: bool, plural: str = "were") -> str:
    """Return for example '1 sample was', '2 samples were' or '2 samples would be'."""
    singular = {"were": "was", "are": "is"}[plural]
    return f"{_counted(count, what)} {'would be' if dry_run else singular if count == 1 else plural}"


def read_ids(text: str, where: str) -> list[int]:
    """Sample ids, separated by commas or white space. Raises ValueError, naming `where`, for anything else."""
    words = re.split(r"[\s,]+", text.strip()) if text.strip() else []
    try:
        return [int(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not re.fullmatch(r"[+-]?\d+", word))
        raise ValueError(f"{where} must hold integers, got {wrong!r}") from None


def read_text(path: Path) -> str:
    """The text of a file. Raises ValueError if it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text file") from None


def _condition(text: str) -> tuple[str, list[float]]:
    field, _, values = text.partition("=")
    try:
        return field.strip(), [float(v) if "." in v else int(v) for v in values.split(",")]
    except ValueError:
        raise ValueError(f"--where must be FIELD=NUMBER[,NUMBER], such as label=3, got {text!r}") from None
