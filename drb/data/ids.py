"""Sample ids that stay with their sample: of files, by what they are called, and of a sample shown in several guises.

An id by position would name another picture once one was added or removed before it; buffers, checkpoints and `forget`
keep ids for as long as a run goes on. Two of 10⁸ files share an id with a probability of 5·10⁻⁴; that is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from drb.seeding import mix64_int
from drb.types import Int64Array

_MASK = (1 << 63) - 1  # ids are int64, and those of data are not negative


def ids_of_paths(source: str, split: str, paths: Iterable[bytes]) -> Int64Array:
    """63 bits of a hash (BLAKE2b) of each file's path below its split, int64 [n].

    source: the collection's name, so that base/cat/1.jpg and today/cat/1.jpg are two samples.
    """
    start = blake2b(f"{source}\0{split}\0".encode("utf-8", "surrogateescape"), digest_size=8)

    def digest(path: bytes) -> bytes:
        hashed = start.copy()
        hashed.update(path)
        return hashed.digest()

    words = np.frombuffer(b"".join(map(digest, paths)), "<u8")
    return (words & np.uint64(_MASK)).astype(np.int64)


def key_of_content(content: bytes, seen: Counter[bytes]) -> bytes:
    """What a sample without a name is called: a hash of its content, with a number if that has come before.

    seen: how often each hash has come, which is counted on.
    """
    digest = blake2b(content, digest_size=16).digest()
    seen[digest] += 1
    return digest if seen[digest] == 1 else digest + b"%d" % (seen[digest] - 1)


def first_repeated(ids: Int64Array) -> tuple[int, int] | None:
    """Two positions that have the same id; None if all ids differ."""
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    return (int(order[same[0]]), int(order[same[0] + 1])) if len(same) else None


def in_guise(ids: Int64Array, guise: int) -> Int64Array:
    """The ids of the same samples in another guise (rotated, permuted …), int64 [n]; guise 0 is the sample itself.

    Each guise moves all ids by a word of its own, so the ids of one guise are distinct, and those of several are by the
    same odds as those of files. Its own inverse.
    """
    return ids if guise == 0 else ids ^ np.int64(mix64_int(guise) & _MASK)
