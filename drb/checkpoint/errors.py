"""Errors of checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message names the file."""


class UnusableError(CheckpointError):
    """A checkpoint that may be intact but cannot be read, for lack of the right key or version of drb."""
