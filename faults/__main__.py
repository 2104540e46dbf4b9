"""The campaign's command line; see the package."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from faults.campaign import import_everything, run_campaign
from faults.plan import SHORT, Fault, draw_faults


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every case ended as promised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["mixes"]:
        from faults.mixes import main as kill_mixes

        return kill_mixes(words[1:])
    options = _parser().parse_args(arguments)
    drawn = SHORT if options.short else draw_faults(options.count, options.seed)
    faults = [fault for fault in drawn if _is_chosen(fault, options.only)]
    if not faults:
        sys.stderr.write(f"no fault matches --only {options.only}\n")
        return 2
    import_everything()
    from faults.outcome import Outcome
    from faults.table import print_line, print_table, save

    folder, start = Path(tempfile.mkdtemp(prefix="drb-faults-")), time.monotonic()
    results = run_campaign(
        faults, options.seed, options.jobs, folder, lambda result: print_line(Outcome.of_json(result))
    )
    outcomes, seconds = [Outcome.of_json(result) for result in results], time.monotonic() - start
    print_table(outcomes, seconds)
    if options.out:
        save(Path(options.out), outcomes, " ".join(sys.argv[1:]), seconds)
    failed = any(outcome.problems for outcome in outcomes)
    if failed or options.keep:
        print(f"logs: {folder}")
    else:
        shutil.rmtree(folder)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faults", description="Break runs on purpose; check how they end.")
    parser.add_argument("--count", type=int, default=72, help="faults to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="the few that `make test` runs, instead of drawn ones")
    parser.add_argument(
        "--only",
        default="",
        help="some of them: words joined by + (number, kind, target, exchange, launcher, w2 …) must all fit, groups "
        "joined by commas are alternatives: stop+row_exchange,kill+w3",
    )
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--out", default="", help="write the result there, as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the logs of cases that ended well, too")
    return parser


def _is_chosen(fault: Fault, only: str) -> bool:
    own = {fault.kind, fault.target, str(fault.number), f"w{fault.world_size}", fault.launcher, fault.exchange}
    return not only or any(set(group.split("+")) <= own for group in only.split(","))


if __name__ == "__main__":
    sys.exit(main())
