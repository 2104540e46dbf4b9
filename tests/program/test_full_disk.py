"""The disk is full when a run ends: what it learned is kept elsewhere, and one line says where."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from programs import TINY, Running

FULL = """
import errno, os, sys
from pathlib import Path
write_text = Path.write_text

def write(path, *arguments, **options):
    if path.name.startswith(".summary.json."):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return write_text(path, *arguments, **options)

Path.write_text = write
from drb.train import main
sys.exit(main())
"""


def test_the_summary_of_a_run_whose_disk_is_full_is_kept_elsewhere(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(FULL)
    ended = Running([sys.executable, str(program), *TINY, "hydra.run.dir=run"], tmp_path, TMPDIR=str(tmp_path)).wait(90)
    assert ended.code == 1
    (line,) = ended.errors
    assert "run/summary.json could not be written: No space left on device; the run is complete" in line
    kept = Path(re.search(r"its summary is in (\S+)", line)[1])
    assert kept.parent == tmp_path
    assert json.loads(kept.read_text())["seed"] == 0
    assert ended.err.splitlines()[-1] == line
