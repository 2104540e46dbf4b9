"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message names the file."""


class UnusableError(CheckpointError):
    """A checkpoint that may be whole, but cannot be read like this: another key or version. No reason to go back."""
