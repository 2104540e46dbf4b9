"""Warnings that name the user's line."""

from __future__ import annotations

import sys
import warnings

_PASSED_OVER = ("drb", "torch")  # packages


def warn_caller(message: str) -> None:
    """Warn at the innermost line outside drb and torch, whose loaders call drb's samplers."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _PASSED_OVER:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
