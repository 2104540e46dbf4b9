"""torchrun whose last line says how the run ended, instead of forty lines of its own traceback:

    python -m drb.distributed.torchrun --nproc-per-node=4 -m drb.train key=value

It takes torchrun's options and exits with the code of the first rank that failed: 75 if the run was interrupted and
saved, so that a scheduler or a script can tell.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main as torchrun


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return the exit code."""
    try:
        torchrun(list(sys.argv[1:] if arguments is None else arguments))
    except ChildFailedError as error:
        _rank, failure = error.get_first_failure()
        print(_last_line(failure), file=sys.stderr, flush=True)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        name = signal.Signals(error.sigval).name
        print(f"drb: torchrun was told to end by {name}, and has ended its ranks", file=sys.stderr, flush=True)
        return 128 + int(error.sigval)
    return 0


def _last_line(failure: ProcessFailure) -> str:
    """What the rank that failed first has said, if it has said anything."""
    if failure.exitcode == os.EX_TEMPFAIL:
        return "drb: the run was interrupted and saved; the same command goes on"
    content = (failure.error_file_data or {}).get("message", "")
    said = str(content["message"] if isinstance(content, dict) else content).strip().splitlines()
    how = f"ended by {failure.signal_name()}" if failure.exitcode < 0 else f"exited with code {failure.exitcode}"
    return said[-1] if said else f"drb: error: rank {failure.local_rank} of this machine {how}; see above"


if __name__ == "__main__":
    sys.exit(main())
