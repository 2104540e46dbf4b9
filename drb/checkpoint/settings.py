"""Settings of checkpoints: when a run is saved, and what it resumes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from drb.options import one_of_phrase, setting

SIGNALS = ("USR1", "USR2", "TERM", "INT", "HUP")


@dataclass
class CheckpointSettings:
    """Checkpoints in the run directory; see docs/checkpoints.md.

    enabled:       whether the run is saved at all
    every_steps:   optimisation steps between two checkpoints; null: none
    every_minutes: minutes between two checkpoints, by rank 0's clock; null: none
    at_task_end:   save after each task's evaluation
    at_end:        save after the last task, so that the run can go on with more tasks
    keep_last:     how many checkpoints are kept; older ones are deleted
    incremental:   link the files of rows that have not changed; false: write all rows each time
    key_file:      a file with a key of 32 bytes (raw, hexadecimal or base64) that encrypts what contains samples; null:
                   no encryption
    private:       only the user may read checkpoints (modes 0700 and 0600); false: whoever the umask lets
    resume:        auto (the newest good checkpoint of the run directory, if any), never, or the path of a checkpoint or
                   of a run, whose newest one counts
    signals:       signals that make the run save itself, leave the file INTERRUPTED and exit with code 75
    """

    enabled: bool = True
    every_steps: int | None = setting(None, at_least=1)
    every_minutes: float | None = setting(None, above=0)
    at_task_end: bool = True
    at_end: bool = True
    keep_last: int = setting(2, at_least=1)
    incremental: bool = True
    key_file: str | None = None
    private: bool = True
    resume: str = "auto"
    signals: list[str] = field(default_factory=lambda: ["USR2", "TERM"])


def check_signals(names: Sequence[str]) -> None:
    """Check the names of signals.

    Raises:
        ValueError: a name is not that of a signal that can be used.
    """
    for name in names:
        if name not in SIGNALS:
            raise ValueError(f"checkpoint.signals must be names among {one_of_phrase(SIGNALS)}, got {name!r}")
