"""What the fork server imports once, for every rank and program that the tests fork from it.

The fork server is a fresh process of `multiprocessing` (see `ranks` and `programs`). A module that is named here costs
one import per test session instead of one per process.
"""

import ctypes
import gc
import importlib
from pathlib import Path

for name in [
    "torch._dynamo",  # 2 s: the first optimizer imports it
    "torch.distributed.run",
    "drb.train",
    "drb.training.evaluation.evaluate",
    "scipy.stats",
    "pytest",
]:
    importlib.import_module(name)

from drb.program.config import compose  # noqa: E402

compose.compose_config(["experiment=digits"])  # 0.3 s: Hydra's plugins, and the schemas of all variants
gc.collect()
gc.freeze()  # a collection in a forked process does not touch, and so copy, these objects' pages


_HUGE, _MADV_COLLAPSE = 2 << 20, 25  # bytes of a huge page; Linux 6.1


def collapse_pages() -> None:
    """Put this process's memory into huge pages, where Linux can: a fork and its end then take 8 instead of 31 ms.

    A fork copies the table of pages, which has 110,000 small ones after these imports. A page that a child writes to is
    split and copied as a small one.
    """
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _offset, _device, _inode, *name = line.split(maxsplit=5)
        if permissions == "rw-p" and name in ([], ["[heap]"]):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            for address in range(-(-begin // _HUGE) * _HUGE, end // _HUGE * _HUGE, _HUGE):
                advise(address, _HUGE, _MADV_COLLAPSE)  # what it refuses stays in small pages


collapse_pages()
