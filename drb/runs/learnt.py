"""Which weights have learnt from samples, which forgetting stored exemplars does not change."""

from __future__ import annotations

from pathlib import Path

from drb.rehearsal.ledger.file import FOLDER
from drb.runs.ledger import read_ledger
from drb.runs.rehearsed import RehearsalLedger
from drb.types import Int64Array


def learnt_from(run_dir: Path, sample_ids: Int64Array) -> str:
    """What to tell someone who forgets samples: how many a run was trained on, and which of its files have seen them.

    Raises:
        ValueError: the run has no ledger, or a damaged one.
    """
    ledger = read_ledger(run_dir) if (run_dir / FOLDER).is_dir() else None
    if not isinstance(ledger, RehearsalLedger):
        raise ValueError(
            f"{run_dir} has no ledger of its exemplars (ledger=false, rehearsal.prefilled or an earlier drb)"
        )
    lacks = f"; what the steps {ledger.lacks} were trained on is not known" if ledger.lacks else ""
    steps = [numbers for numbers in ledger.steps_of(sample_ids.tolist()).values() if numbers]
    if not steps:
        return f"the run was trained on none of these samples in its {ledger.steps} steps{lacks}"
    first = min(numbers[0] for numbers in steps)
    seen_by = ", ".join(ledger.seen_by([first])) or "no checkpoint or export that is left"
    were = "sample was" if len(steps) == 1 else "samples were"
    learnt = f"{len(steps)} {were} trained on, from step {first} on: the weights of {seen_by} have learnt from that"
    return learnt + lacks
