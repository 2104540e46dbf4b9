"""The tests that need a GPU, several at a time where pytest-xdist is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PLACES = ("tests/gpu", "tests/training/test_learner.py")
_ALONE = ("tests/gpu/test_shared_device.py::test_memory_is_given_back",)  # they look at what the whole GPU has free
_PROCESSES = 3


def run_tests() -> tuple[str, bool]:
    """Run them; pytest's last lines, and whether all passed."""
    if importlib.util.find_spec("xdist") is None:
        return _pytest(_PLACES)
    together, have_passed = _pytest((f"-n{_PROCESSES}", *(f"--deselect={test}" for test in _ALONE), *_PLACES))
    alone, has_passed = _pytest(_ALONE)
    return f"{together}; {alone}", have_passed and has_passed


def _pytest(arguments: tuple[str, ...]) -> tuple[str, bool]:
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", "--timeout=60"]
    command += ["-p", "no:benchmark"]  # pytest-benchmark warns beside pytest-xdist, and warnings are errors
    running = subprocess.Popen(
        [*command, "--durations=8", *arguments], cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert running.stdout is not None
    last = "pytest said nothing"
    for line in running.stdout:  # at once, and with -v each test by its name, because it may be stopped
        print(line, end="", flush=True)
        last = line.strip("= \n") or last
    return last, running.wait() == 0
