"""A terminal that cannot show a character never ends a run."""

from __future__ import annotations

import io
import os
import subprocess
import sys

from drb.cli import main


class Latin(io.TextIOWrapper):
    """A standard output as `PYTHONIOENCODING=latin-1` makes it."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "latin-1", "strict", write_through=True)


def test_a_character_that_the_output_cannot_show_is_replaced(tmp_path, monkeypatch):
    out, err = Latin(), Latin()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["schön→weit"]) == 1
    assert b"unknown command 'sch\xf6n\\u2192weit'" in err.buffer.getvalue()
    out.write("resumed 2 → 3 ranks")
    assert out.buffer.getvalue() == b"resumed 2 \\u2192 3 ranks"


_PRINTS_CONFIG = """
import sys
from drb.program.summary import write_atomically
from pathlib import Path
write_atomically(Path(sys.argv[1]), "root: gr\\u00f6\\u00dfe \\u2192")
"""


def test_files_do_not_depend_on_the_locale(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", _PRINTS_CONFIG, str(tmp_path / "config.yaml")], env=environment, check=True)
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "root: größe →"
