"""The ledger on disk: LEDGER/<steps taken at the start>-<rank>.log of each start of a run and each of its ranks.

A file is a sequence of records: 8 bytes with length and checksum, then 4 with the length of a JSON text, the text
deflated, and bytes that it describes. The first one has the rules and says whose run it is; each other one has what was
logged up to a checkpoint, and says of how many optimisation steps (`end`). A record is on the disk before its
checkpoint has a name. Going on from an earlier checkpoint cuts what came after it.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drb.checkpoint.files import sync_folder
from drb.rehearsal.ledger.coding import pack, unpack
from drb.rehearsal.ledger.dealt import Stretch
from drb.rehearsal.ledger.recorder import Entry, Part, Recorder, Rules
from drb.types import Int64Array

FOLDER = "ledger"
_FORMAT = "drb-ledger 2"
_FRAME = struct.Struct("<II")
_TEXT = struct.Struct("<I")
_log = logging.getLogger(__name__)


class LedgerWriter:
    """Writes what one rank has logged.

    steps: optimisation steps that had been taken when this process began. run: the run's name, alike on all ranks and
    in all its starts; nothing is compared with "".
    """

    def __init__(self, run_dir: Path, recorder: Recorder, rank: int, steps: int, run: str = "") -> None:
        self._run = run
        self._path = run_dir / FOLDER / f"{steps:010d}-{rank:05d}.log"
        self._recorder = recorder
        self._steps = steps
        self._waiting: list[tuple[Part, int]] = []
        self._written = 0

    def take(self, steps: int) -> None:
        """Take what was logged up to an optimisation step; for the training thread, while no round is in flight."""
        self._waiting.append((self._recorder.take(), steps))

    def write(self) -> None:
        """Write what was taken, and wait until it is on the disk. If that fails it can be tried again.

        Raises:
            OSError: it cannot be written.
        """
        rules = self._recorder.rules
        if rules is None or not self._waiting:
            return
        records = [_record(*_content(part, end)) for part, end in self._waiting]
        if not self._written:
            header = {"format": _FORMAT, "run": self._run, "rules": asdict(rules), "begin": self._steps}
            records.insert(0, _record(header, []))
            self._path.parent.mkdir(exist_ok=True)
        with open(self._path, "r+b" if self._written else "wb") as file:
            file.seek(self._written)
            file.truncate()
            file.write(b"".join(records))
            file.flush()
            os.fsync(file.fileno())
            if not self._written:
                sync_folder(self._path.parent)
                sync_folder(self._path.parent.parent)
            self._written = file.tell()
        self._waiting.clear()


@dataclass
class RankLog:
    """What one rank logged from a start of the run `run` on, up to optimisation step `end`. blocks: as bytes."""

    run: str
    rules: Rules
    begin: int
    end: int = 0
    entries: list[Entry] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    tasks: list[tuple[str, Int64Array]] = field(default_factory=list)
    fetched: dict[int, Int64Array] = field(default_factory=dict)


def read_logs(run_dir: Path, runs: Collection[str] = ()) -> list[list[RankLog]]:
    """The logs of each start of a run, the earliest first, and in it of each rank.

    runs: the names that the run may have; empty if that is not known.

    Raises:
        ValueError: a file is damaged or missing, of another run or version of drb, or has steps that a later start has,
            too.
        OSError: it cannot be read.
    """
    starts: dict[str, list[Path]] = {}
    first: tuple[Path, RankLog] | None = None
    for path in _files(run_dir):
        starts.setdefault(path.name.partition("-")[0], []).append(path)
    logs: list[list[RankLog]] = []
    for paths in starts.values():
        start = [_read(path) for path in paths]
        for path, log in zip(paths, start, strict=True):
            first = first or (path, log)
            _require_own(path, log, first, runs)
        ranks = start[0].rules.world_size
        if [log.rules.rank for log in start] != list(range(ranks)):
            raise ValueError(f"{paths[0].parent} lacks files of this start of the run: {paths[0].name} is of {ranks}")
        if logs and start[0].begin < max(log.end for log in logs[-1]):
            raise ValueError(
                f"{paths[0]} begins before the end of an earlier start of the run: they do not belong together"
            )
        logs.append(start)
    return logs


def _require_own(path: Path, log: RankLog, first: tuple[Path, RankLog], runs: Collection[str]) -> None:
    """Raise ValueError unless a file is of one of these runs, and of the same one as the first file."""
    if runs and log.run not in runs:
        raise ValueError(
            f"{path} is of the run {log.run!r}, and the checkpoints and summary beside it are of {sorted(runs)[0]!r}: "
            f"put the ledger of this run in its place, or remove {path.parent}"
        )
    if (log.run, log.rules.run) != (first[1].run, first[1].rules.run):
        raise ValueError(f"{path} and {first[0]} are of different runs: remove those of the other one")


def cut(run_dir: Path, steps: int, run: str = "") -> None:
    """Drop what was logged after an optimisation step, from which the run goes on. While nobody else writes.

    A damaged record ends its file, too, and a file of another run than `run` goes: the run goes on without them, and
    `drb audit` says which steps are lacking.
    """
    for path in _files(run_dir):
        if int(path.name.partition("-")[0]) >= steps:
            path.unlink()
            continue
        kept = 0
        try:
            for content, _, end in _records(path):
                if content.get("end", 0) > steps:
                    break
                if content.get("run", run) != run:
                    raise ValueError(f"{path} is of the run {content['run']!r}, not of this one, and is removed")
                kept = end
        except ValueError as error:
            _log.warning("%s; drb audit cannot answer for the steps from there on", error)
        if kept:
            os.truncate(path, kept)
        else:
            path.unlink()


def bytes_of(run_dir: Path) -> int:
    """What the ledger of a run takes on the disk."""
    return sum(path.stat().st_size for path in _files(run_dir))


def _files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / FOLDER).glob("*-*.log"))


def _content(part: Part, end: int) -> tuple[dict[str, Any], list[bytes]]:
    """What a record says, and the bytes behind it."""
    tasks = [pack(ids, differences=True) for _, ids in part.tasks]
    fetched = [pack(ids) for _, ids in part.fetched]
    columns = {} if not part.entries else {name: [asdict(e)[name] for e in part.entries] for name in _ENTRY}
    content = {
        "end": end,
        "entries": columns,
        "stretches": [stretch.to_json() for stretch in part.stretches],
        "tasks": [name for name, _ in part.tasks],
        "fetched": [step for step, _ in part.fetched],
    }
    return content, [*tasks, *fetched, *part.blocks]


_ENTRY = list(Entry.__dataclass_fields__)


def _record(content: dict[str, Any], bodies: list[bytes]) -> bytes:
    text = zlib.compress(json.dumps(content, separators=(",", ":")).encode())
    payload = b"".join([_TEXT.pack(len(text)), text, *bodies])
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _records(path: Path) -> Iterator[tuple[dict[str, Any], bytes, int]]:
    """What each record says, the bytes behind that, and where it ends; not one that was cut short at the end."""
    data, at = path.read_bytes(), 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) < length:
            return
        at += _FRAME.size + length
        if zlib.crc32(payload) != checksum:
            raise ValueError(f"{path} is damaged: its record before byte {at} has another checksum")
        (text,) = _TEXT.unpack_from(payload)
        begin = _TEXT.size + text
        yield json.loads(zlib.decompress(payload[_TEXT.size : begin])), payload[begin:], at


def _read(path: Path) -> RankLog:
    log: RankLog | None = None
    try:
        for content, body, _ in _records(path):
            if log is None:
                if content["format"] != _FORMAT:
                    raise ValueError(f"{path} is of another version of drb: it is {content['format']}, not {_FORMAT}")
                log = RankLog(content["run"], Rules(**content["rules"]), content["begin"], content["begin"])
                continue
            _add(log, content, body)
    except (KeyError, TypeError, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if log is None:
        raise ValueError(f"{path} is damaged: it has no beginning")
    return log


def _add(log: RankLog, content: dict[str, Any], body: bytes) -> None:
    at = 0
    log.end = content["end"]
    log.stretches += [Stretch.of(values) for values in content["stretches"]]
    for name in content["tasks"]:
        ids, at = unpack(body, at)
        log.tasks.append((name, ids))
    for step in content["fetched"]:
        log.fetched[step], at = unpack(body, at)
    columns = content["entries"]
    for values in zip(*(columns[name] for name in _ENTRY), strict=True) if columns else ():
        entry = Entry(**dict(zip(_ENTRY, values, strict=True)))
        log.entries.append(entry)
        log.blocks.append(body[at : at + entry.size_bytes])
        at += entry.size_bytes
