"""The programs in examples/ do what they say."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import pytest
import torch.distributed as dist
from programs import ROOT
from ranks import run_ranks

EXAMPLES = ROOT / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def accuracies(text: str) -> list[float]:
    return [float(percent) for percent in re.findall(r"accuracy ([\d.]+)%", text)]


def test_late_fields_keep_what_was_learnt(capsys):
    load("late_fields").main()
    assert accuracies(capsys.readouterr().out)[-1] > 80  # 20 without rehearsal


def test_prefilled_buffers_keep_the_old_classes(capsys):
    load("prefilling").main()
    before, old, new = accuracies(capsys.readouterr().out)
    assert before > 95
    assert min(old, new) > 80  # 0 of the old ones without


def lines_of_saving(rank: int, world_size: int, folder: str, *tasks: int) -> list[str]:
    """What the example prints on this rank, of a group that is open already."""
    out = io.StringIO()
    dist.init_process_group = dist.destroy_process_group = lambda *_: None
    with contextlib.redirect_stdout(out):
        load("saving").main(Path(folder), *tasks)
    return out.getvalue().splitlines()


def test_a_saved_loop_goes_on_bit_for_bit(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, _ = run_ranks(lines_of_saving, 2, str(tmp_path / "whole"), 3, timeout=60)
    first, _ = run_ranks(lines_of_saving, 2, str(tmp_path / "parts"), 2, timeout=60)
    rest, _ = run_ranks(lines_of_saving, 2, str(tmp_path / "parts"), 3, timeout=60)
    assert [len(first), len(rest)] == [2, 1]
    assert first + rest == whole


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path):
    text = path.read_text()
    assert re.search(r"^    (?:torchrun|python) .*", text, re.MULTILINE) or path.stem == "my_variants"
    assert len(text.splitlines()) <= 80 or path.stem in ("my_variants", "cuda_graph", "ten_days")
