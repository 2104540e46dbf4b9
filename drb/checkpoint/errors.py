"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message names the file."""
