"""What the fork server imports once, for every rank and program that the tests fork from it.

The fork server is a fresh process of `multiprocessing` (see `ranks` and `programs`). A module that is named here costs
one import per test session instead of one per process.
"""

import gc
import importlib

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
