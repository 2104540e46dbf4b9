"""Which versions of a lineage have learnt from a sample: those that trained on it, and all that go on from them."""

from __future__ import annotations

from drb.runs.ledger import read_ledger
from drb.runs.lineage.record import Lineage
from drb.runs.rehearsed import RehearsalLedger


def versions_that_saw(lineage: Lineage, sample_id: int) -> list[str]:
    """A line for each version that trained on a sample, and one that names all that have learnt from it.

    Raises:
        ValueError: a version's run has no ledger of what was rehearsed.
    """
    lines, trained = [], set()
    for version in lineage.versions:
        run_dir = lineage.run_dir(version.number)
        ledger = read_ledger(run_dir)
        if not isinstance(ledger, RehearsalLedger):
            raise ValueError(f"{run_dir} mixes sources: ask it by drb audit {run_dir} --sample SOURCE:POSITION")
        if ledger.lacks:
            lines.append(f"what version {version.number} trained on in steps {ledger.lacks} is not known")
        steps, _ = ledger.sample(str(sample_id))
        if steps:
            trained.add(version.number)
            lines.append(f"version {version.number} trained on {sample_id} in steps {', '.join(map(str, steps))}")
    have_seen = [
        each.number for each in lineage.versions if trained & {old.number for old in lineage.line_of(each.number)}
    ]
    return [*lines, f"seen by {', '.join(f'version {number}' for number in have_seen) or 'no version'}"]
