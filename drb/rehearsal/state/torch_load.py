"""Lets `torch.load(…, weights_only=True)`, torch's default, read a rehearsal's state that `torch.save` has written.

A state has NumPy's arrays and numbers, which torch refuses unless it is told that they may be made. They are data:
nothing that a file names beyond these is imported or called.
"""

from __future__ import annotations

import _codecs
import importlib

import numpy as np
import torch

_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)


def allow_arrays() -> None:
    """Tell torch, once, that arrays of numbers may be loaded."""
    multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    torch.serialization.add_safe_globals(
        [
            np.ndarray,
            np.dtype,
            multiarray._reconstruct,
            multiarray.scalar,
            _codecs.encode,
            bytes,
            *(type(np.dtype(name)) for name in _DTYPES),
        ]
    )
