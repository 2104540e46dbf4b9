"""Stored samples that a run did not store itself: a folder that `drb prefill` has filled, mapped by every rank.

They count as the buffer of one more rank, number W, which never changes: every rank knows how many it holds, draws from
it as from the others, and reads its records from the mapped files. So the page cache holds them once for all ranks and
runs of a node, and they may be more than fit into memory.

Letters: N samples of the folder, n that are drawn from, R exemplars, W ranks, K words of a row.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from drb.buffer.record import HEADER_WORDS, ROUND, SAMPLE_ID, SLOT, STRATUM, RecordSpec
from drb.data.cache import open_prefilled
from drb.data.mapped import MappedSource
from drb.exchange import Exchange
from drb.exchange.base import DirectRows
from drb.rehearsal.settings import LABEL, RehearsalSettings
from drb.types import Int64Array

_BEFORE = -1  # the round in which these samples came
_COPIED_BYTES = 512 << 10  # of records at once, so that they pass through the processor's cache
_NOTHING: Int64Array = np.empty(0, np.int64)


class Prefilled:
    """The samples of a folder, in the order of their strata if those are counted.

    size: how many there are to draw from. offered: how many a prefill chose them from, at least `size`.
    folder: where they lie. changes: how often `size` has changed.
    """

    def __init__(self, folder: str, spec: RecordSpec, settings: RehearsalSettings) -> None:
        """Map the folder.

        Raises:
            ValueError: there is none, it is damaged, or its samples are not records of this schema.
        """
        dataset = open_prefilled(Path(folder).expanduser())
        assert isinstance(dataset.train, MappedSource)
        self.folder = folder
        self.changes = 0
        self._data = dataset.identity.fingerprint
        self._source, self._spec = dataset.train, spec
        self._counts_strata, self._is_labelled = settings.needs_strata, settings.stratum == LABEL
        self._require_records(settings)
        self._gaps, self._image_words = _gaps(spec), _image_words(spec)
        self._shape = dataset.image_shape
        kept = max(1, _COPIED_BYTES // (dataset.sample_bytes or 1))
        dtype = torch.empty(0, dtype=dataset.dtype).numpy().dtype
        self._passing = np.empty((kept, math.prod(self._shape)), dtype)
        self.offered = int(dataset.identity.decoding.get("of", len(dataset.train)))
        self._sorted_ids: Int64Array = np.sort(self._source.sample_ids)
        self._use(np.flatnonzero(~self._source.erased) if self._source.erased.any() else None)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def fingerprint(self) -> str:
        """What is drawn from: the data, and which of its samples. Ranks must agree on it, and draws depend on it."""
        return f"{self._data} {blake2b(np.sort(self.rows).tobytes(), digest_size=8).hexdigest()}"

    @property
    def strata(self) -> tuple[Int64Array, Int64Array]:
        """Strata of the samples, ascending, and how many each has: int64 [S] twice."""
        return self._strata

    @property
    def sorted_ids(self) -> Int64Array:
        """Ids of all samples, int64 [N], ascending: no rank stores these again."""
        return self._sorted_ids

    @property
    def rows(self) -> Int64Array:
        """The numbers of the samples that are drawn from, int64 [n]."""
        return np.arange(len(self._source)) if self._table is None else self._table

    def __getitem__(self, rows: Int64Array) -> Int64Array:
        """Return the records of these samples, int64 [R, K]."""
        records: Int64Array = np.zeros((len(rows), self._spec.words), np.int64)
        self._read(rows, records)
        return records

    def counted_with(self, counts_W1: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the exemplars, int64 [W + 1, 1], and distinct offers of every rank with these samples behind them."""
        return np.concatenate((counts_W1, [[self.size]])), np.append(offered_W, self.offered)

    def fetch(self, positions: Int64Array, out: Int64Array) -> None:
        """Write the records at these positions, int64 [R], into out, int64 [R, K].

        Raises:
            ValueError: a sample was erased from the folder meanwhile.
        """
        self._read(positions if self._table is None else self._table[positions], out)

    def beside(self, exchange: Exchange, world_size: int) -> Exchange:
        """Return an exchange that reads records of owner W from here and all others as `exchange` does."""
        return WithPrefilled(exchange, self, world_size)

    def drop(self, sample_ids: Int64Array) -> int:
        """Draw these samples no more; return how many that are. The files stay as they are."""
        gone = np.isin(self._source.sample_ids, sample_ids)
        if not gone.any():
            return 0
        rows, before = self.rows, self.size
        self._use(np.sort(rows[~gone[rows]]))
        self.changes += 1
        return before - self.size

    def _use(self, rows: Int64Array | None) -> None:
        """Draw from these rows, int64 [n] ascending; None: from all."""
        labels = self._source.labels if rows is None else self._source.labels[rows]
        self.size = len(labels)
        self._table = rows
        self._strata = np.zeros(1, np.int64), np.array([self.size])
        if self._counts_strata:
            order = np.argsort(labels, kind="stable")
            self._table = order if rows is None else rows[order]
            self._strata = np.unique(labels, return_counts=True)

    def _read(self, rows: Int64Array, out: Int64Array) -> None:
        size = len(self._passing)
        for first in range(0, len(rows), size):
            self._read_some(rows[first : first + size], out[first : first + size])

    def _read_some(self, rows: Int64Array, out: Int64Array) -> None:
        """Every byte of `out` is written: a block is used again and again."""
        spec, images = self._spec, self._passing[: len(rows)]
        labels, ids = self._source.read(rows, images)
        for words in self._gaps:
            out[:, words] = 0
        out[:, SAMPLE_ID], out[:, STRATUM] = ids, labels if self._is_labelled else -1
        out[:, ROUND], out[:, SLOT] = _BEFORE, rows
        if self._image_words is not None:
            out[:, self._image_words] = images.view(np.int64)
            fields = {"label": torch.from_numpy(labels)}
        else:
            pixels = torch.from_numpy(images).view(len(rows), *self._shape)
            fields = {"image": pixels, "label": torch.from_numpy(labels)}
        for name in fields.keys() & spec.fields.keys():
            everything = np.arange(len(rows))
            spec.pack(name, fields[name], everything, out, everything)

    def _require_records(self, settings: RehearsalSettings) -> None:
        """Raise ValueError unless the samples are records of the schema."""
        where, spec = f"prefilled={self.folder}", self._spec
        if settings.id_field is None:
            raise ValueError(f'{where} has samples with ids, and with sample_id="arrival" the stream has none')
        if self._counts_strata and settings.stratum != LABEL:
            raise ValueError(f"{where} knows samples by label, and stratum={settings.stratum!r} counts them otherwise")
        sample = self._source.gather(np.flatnonzero(~self._source.erased)[:1])
        if not len(sample["label"]):
            raise ValueError(f"{where} holds no sample that has not been erased")
        for name, field in spec.fields.items():
            if name not in sample or name == "sample_id":
                if not field.optional:
                    raise ValueError(
                        f"{where} holds image, label and id of its samples, and every record must have {name!r}; use a "
                        "method that stores no such field, or declare it optional in spec="
                    )
            elif not field.takes(sample[name], 1) or sample[name].dtype != field.dtype:
                found = f"{str(sample[name].dtype).removeprefix('torch.')} {list(sample[name].shape[1:])}"
                raise ValueError(f"{where} holds {name!r} as {found} a sample, this run's records have {field}")


class WithPrefilled:
    """An exchange that reads the records of owner number W from mapped files, and all others as `exchange` does."""

    direct: DirectRows | None = None

    def __init__(self, exchange: Exchange, prefilled: Prefilled, world_size: int) -> None:
        self.name = exchange.name
        self._exchange, self._prefilled, self._owner = exchange, prefilled, world_size
        self._passing: Int64Array = _NOTHING.reshape(0, 0)

    @property
    def index_seconds(self) -> float:
        return self._exchange.index_seconds

    @property
    def rows(self) -> Int64Array:
        return self._exchange.rows

    @property
    def staging_bytes(self) -> int:
        return self._exchange.staging_bytes

    def publish(self, table: Int64Array, changed: bool) -> None:
        self._exchange.publish(table, changed)

    def gather_counts(self, message: Int64Array) -> Int64Array:
        return self._exchange.gather_counts(message)

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return self._exchange.share(values, lengths)

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        """Every rank fetches from the others, perhaps nothing: that may be collective."""
        is_mapped = owners == self._owner
        stored, mapped = np.flatnonzero(~is_mapped), np.flatnonzero(is_mapped)
        count = len(stored)
        if not count or stored[-1] == count - 1:  # of one draw the mapped ones come last
            self._exchange.fetch(owners[:count], positions[:count], out[:count])
            self._prefilled.fetch(positions[count:], out[count:])
            return
        if len(self._passing) < len(out):
            self._passing = np.empty_like(out)
        passing = self._passing[: len(out)]
        self._exchange.fetch(owners[stored], positions[stored], passing[:count])
        self._prefilled.fetch(positions[mapped], passing[count:])
        out[stored], out[mapped] = passing[:count], passing[count:]

    def erase(self) -> None:
        self._exchange.erase()
        self._passing.fill(0)

    def close(self, together: bool = False) -> None:
        self._exchange.close(together)


def _image_words(spec: RecordSpec) -> slice | None:
    """The words of a record that are the image's as it is mapped; None if it is stored otherwise, or ends in a word."""
    field = spec.fields.get("image")
    if field is None or field.codec is not None or field.stored_bytes % 8:
        return None
    first = spec.offsets["image"] // 8
    return slice(first, first + field.stored_bytes // 8)


def _gaps(spec: RecordSpec) -> list[slice]:
    """The words of a record that its largest field, which comes first, does not fill."""
    name = next(iter(spec.fields))
    first = spec.offsets[name] // 8
    return [slice(HEADER_WORDS, first), slice(first + spec.fields[name].stored_bytes // 8, spec.words)]
