"""What the fork server imports once, for every rank and program that the tests fork from it.

The fork server is a fresh process of `multiprocessing` (see `ranks` and `programs`). A module that is imported here
costs one import per test session instead of one per process.
"""

import gc

import pytest  # noqa: F401
import scipy.stats  # noqa: F401
import torch._dynamo  # noqa: F401 - 2 s, imported by the first optimizer
import torch.distributed

import drb.train
import drb.training.evaluation  # noqa: F401

gc.collect()
gc.freeze()  # a collection in a forked process does not copy these objects' pages
