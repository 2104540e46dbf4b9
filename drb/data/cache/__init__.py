"""Decoded datasets on disk, memory-mapped by all ranks of a node: decoded once, held once.

A cache is a folder NAME-KEY of .npy files and one JSON file; the key is a hash of all that it was made from. It is
built under a lock in NAME-KEY.partial-NODE and renamed when it is whole and on the disk, so a killed decode leaves
nothing that could be taken for a cache. `place.py` decides where and whether, `files.py` knows the format, `build.py`
makes one, `erasing.py` removes samples from one. `parallel.py` makes one in a folder of the user's choice, which
several ranks fill together (drb prefill), with the samples that `choose.py` chooses.
"""

from __future__ import annotations

from drb.data.cache.build import cached
from drb.data.cache.erasing import erase, erased_ids
from drb.data.cache.files import fingerprint, made_from, open_prefilled
from drb.data.cache.place import CacheSettings
from drb.data.cache.run_file import RunFile, read_run_file, write_run_file

__all__ = [
    "CacheSettings",
    "RunFile",
    "cached",
    "erase",
    "erased_ids",
    "fingerprint",
    "made_from",
    "open_prefilled",
    "read_run_file",
    "write_run_file",
]
