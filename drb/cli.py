"""The `drb` command: `drb train ...` is `python -m drb.train ...`."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence

from drb.machine import print_whatever_comes

_HELP = """\
usage: drb COMMAND ...

    drb train      one continual-learning run (drb train --help)
    drb demo       three runs on digits side by side (drb demo --help)
    drb plan       is rehearsal overlapped with training, and what does it cost? (drb plan --help)
    drb study      many runs, compared on one page (drb study --help)
    drb dashboard  browse runs and studies in MLflow (drb dashboard --help)
    drb report     several runs in a table and plots (drb report --help)
    drb prefill    fill a buffer or a cache on disk from a data set, once for all runs (drb prefill --help)
    drb update     new data arrived: train on it, judge it, promote it (drb update --help)
    drb lineage    the versions that updates made (drb lineage --help)
    drb rollback   make an earlier version current (drb rollback --help)
    drb audit      which samples a run was trained on, and when (drb audit --help)
    drb forget     remove samples from a run's checkpoints (drb forget --help)
    drb inspect    what a checkpoint contains (drb inspect --help)
    drb verify     whether a checkpoint is intact (drb verify --help)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand over to a command; returns the exit code."""
    print_whatever_comes()
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command == "train":
        from drb.train import main as train  # commands import torch: `drb --help` need not

        return train(rest)
    if command == "demo":
        from drb.demo import main as demo

        return demo(rest)
    if command == "forget":
        from drb.runs.forget_command import main as forget

        return forget(rest)
    if command == "plan":
        from drb.plan.command import main as plan

        return plan(rest)
    if command == "study":
        from drb.study.command import main as study

        return study(rest)
    if command == "dashboard":
        from drb.tracking.dashboard import main as dashboard

        return dashboard(rest)
    if command == "report":
        from drb.runs.report.command import main as report

        return report(rest)
    if command == "prefill":
        from drb.prefill import main as prefill

        return prefill(rest)
    if command == "update":
        from drb.update import main as update

        return update(rest)
    if command in ("lineage", "rollback"):
        from drb.runs.lineage.command import main as on_lineage

        return on_lineage(command, rest)
    if command == "audit":
        from drb.runs.audit_command import main as audit

        return audit(rest)
    if command in ("inspect", "verify"):
        from drb.runs.checkpoint_command import main as on_checkpoint

        return on_checkpoint(command, rest)
    if command in ("-h", "--help"):
        sys.stdout.write(_HELP)
        return 0
    known = re.findall(r"^    drb (\w+)", _HELP, re.MULTILINE)
    meant = difflib.get_close_matches(command, known, 1)
    hint = f"did you mean drb {meant[0]}? " if meant else ""
    sys.stderr.write(f"drb: error: unknown command {command!r}; {hint}choose {', '.join(known[:-1])} or {known[-1]}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
