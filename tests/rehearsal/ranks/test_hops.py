"""A step can be followed: a steady `extend` on two ranks, with a ledger, crosses few files.

`benchmarks/hops.py` prints which.
"""

from __future__ import annotations

from ranks import run_cases

from benchmarks.hops import TRAINING, WORKER, medians, steady_extends

MOST_CHANGES_OF_FILE = {
    "inline": {TRAINING: 44},
    "on a worker": {TRAINING: 30, WORKER: 11},
}  # at most half of the 89 in all that there were before


def changes_of_file(rank, world_size, asynchronous):
    return {
        thread: each["changes of file"]
        for thread, each in medians(steady_extends(rank, world_size, asynchronous)).items()
    }


def test_a_steady_extend_changes_file_seldom():
    found = run_cases(changes_of_file, 2, {"inline": (False,), "on a worker": (True,)})
    for way, most in MOST_CHANGES_OF_FILE.items():
        for threads in found[way]:
            assert threads.keys() == most.keys()
            assert all(10 < threads[thread] <= most[thread] for thread in most), (way, threads)
