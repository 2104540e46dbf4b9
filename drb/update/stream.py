"""A stream that never ends: every N samples of it are the data of an update, which makes a state of the lineage.

The next samples are those behind the ones of the last update that has ended, promoted or not, so a stream is read
without a gap and without a repetition, however often the command is killed. They are kept, mapped and not in memory,
in the folder `stream` of the lineage: later updates rehearse and evaluate them by what they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drb.data.cache import CacheSettings, cached, made_from
from drb.data.datasets.python_object import PythonObject
from drb.data.ids import ids_of_paths
from drb.data.mix.stream import Stream, StreamEndedError
from drb.data.source import Dataset
from drb.data.with_ids import with_ids
from drb.options import whole_number
from drb.runs.lineage.record import STREAM, Lineage

_SAMPLES = re.compile(r"(\d+)-(\d+)-[0-9a-f]+")  # the name of their folder: the first one, the end, a hash


class StreamOverError(Exception):
    """All states that were asked for are there, or the stream has ended; says which."""


@dataclass(frozen=True)
class StreamSettings:
    """What is followed.

    function: the dotted path of a function that returns an iterable of (image, label) pairs or dicts. Every iteration
    has to begin with the first sample and give the same ones. arguments: keyword arguments for it.
    every: samples of a state. states: how many the stream gives in all; None: until it ends or the command does.
    """

    function: str
    every: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    states: int | None = None

    def __post_init__(self) -> None:
        whole_number("the samples of a state (--every)", self.every, at_least=2)
        if self.states is not None:
            whole_number("the states of a stream (--states)", self.states, at_least=1)

    @classmethod
    def made_of(cls, values: Mapping[str, Any]) -> StreamSettings | None:
        """From a command line and a file; None if no stream is named.

        Raises:
            ValueError: something is missing, unknown or out of range.
        """
        values = {name: value for name, value in values.items() if value is not None}
        if unknown := sorted(map(str, values.keys() - {"function", "every", "arguments", "states"})):
            raise ValueError(f"a stream has function, every, arguments and states, got {', '.join(unknown)}")
        if not values:
            return None
        if missing := [option for name, option in _NEEDED.items() if name not in values]:
            raise ValueError(f"a stream needs {' and '.join(missing)}")
        if not isinstance(values.get("arguments", {}), Mapping):
            raise ValueError(f"the arguments of a stream are {{name: value}}, got {values['arguments']!r}")
        return cls(**values)


_NEEDED = {"function": "--stream FUNCTION", "every": "--every N, the samples of a state"}


class StreamData:
    """The samples of a stream, N at a time, in folders of the lineage."""

    def __init__(self, settings: StreamSettings, test_fraction: float = 0.1) -> None:
        """
        Raises:
            ValueError: the function cannot be imported or fails, or returns an iterator.
        """
        self._settings = settings
        arguments = dict(settings.arguments)
        self._builder = PythonObject(function=settings.function, arguments=arguments, test_fraction=test_fraction)
        made = self._builder.call()
        if not hasattr(made, "__iter__"):
            raise ValueError(f"the stream {settings.function} must return an iterable, got {type(made).__name__}")
        self._stream = Stream(settings.function, made)

    def next_of(self, lineage: Lineage, say: Callable[[str], None]) -> Path:
        """The folder with the next samples, which is filled unless it is there. Every rank calls it; one reads.

        Raises:
            StreamOverError: there is no further state. ValueError: samples that cannot be used.
        """
        of_stream = [found for version in lineage.versions if (found := _SAMPLES.fullmatch(_name_of(version.data)))]
        wanted = self._settings
        if wanted.states is not None and len(of_stream) >= wanted.states:
            raise StreamOverError(f"{lineage.folder} has {len(of_stream)} states of the stream, as asked for")
        last = max(of_stream, key=lambda found: int(found[2]), default=None)
        first = 0 if last is None else int(last[2])
        stop, folder = first + wanted.every, lineage.folder / STREAM
        identity = {"function": wanted.function, "arguments": repr(sorted(wanted.arguments.items()))}
        if last is not None:
            _require_same(identity, folder / last[0])
        facts = {**identity, "samples": [first, stop], "test_fraction": self._builder.test_fraction}
        try:
            dataset = cached(
                f"{first}-{stop}", folder, lambda: self._read(first, stop), facts, CacheSettings("always", folder), say
            )
        except ValueError as error:  # as text, since another rank may have read
            if not re.search(_ENDED.format(re.escape(wanted.function), r"\d+", r"\d+", wanted.every), str(error)):
                raise
            raise StreamOverError(str(error)) from None
        assert dataset.cache is not None
        return dataset.cache

    def _read(self, first: int, stop: int) -> Dataset:
        return self._builder.dataset_of(self._samples(first, stop), is_whole=False)

    def _samples(self, first: int, stop: int) -> Iterator[Mapping[str, Any]]:
        """The samples in [first, stop), each with the id that it brings, or else one of its number in the stream."""
        ids = ids_of_paths(f"stream {self._settings.function}", "train", (b"%d" % n for n in range(first, stop)))
        for number, sample_id in zip(range(first, stop), ids.tolist(), strict=True):
            try:
                item = self._stream[number]
            except StreamEndedError:
                left, every = number - first, self._settings.every
                raise ValueError(_ENDED.format(self._settings.function, number, left, every)) from None
            named = with_ids([item])[0]
            yield named if isinstance(item, dict) and "sample_id" in item else {**named, "sample_id": sample_id}


_ENDED = "the stream {} has ended after {} samples, of which the last {} make no state of {}"


def _require_same(identity: Mapping[str, str], before: Path) -> None:
    """Raise ValueError if the samples in this folder are of another stream, whose numbers tell nothing about this."""
    found = made_from(before)
    for name, own in identity.items():
        if found.get(name) != own:
            raise ValueError(
                f"the samples so far, {before}, are of a stream with the {name} {found.get(name)}, got {own}: go on "
                "with the same, or follow the other one in a lineage of its own (--state)"
            )


def _name_of(data: str) -> str:
    path = Path(data)
    return path.name if path.parent.name == STREAM else ""
