"""Hypothesis without chance: the same examples in every run, nothing written to disk."""

from hypothesis import settings

settings.register_profile("drb", derandomize=True, deadline=None, database=None)
settings.load_profile("drb")
