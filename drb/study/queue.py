"""What Slurm has in its queue."""

from __future__ import annotations

import subprocess


def jobs_in_queue() -> dict[str, str]:
    """The job of every array task of this user that waits or runs, by the task's 'NAME PLACE'.

    It is empty where there is no Slurm.

    Raises:
        ValueError: Slurm does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--format=%j %K %F"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return {}
    if done.returncode:
        said = (done.stderr.strip() or f"squeue ended with code {done.returncode}").splitlines()[-1]
        raise ValueError(f"Slurm does not say which runs are in its queue: {said}; try again when it answers")
    tasks = (line.split() for line in done.stdout.splitlines())
    return {f"{name} {place}": job for name, place, job in tasks}
