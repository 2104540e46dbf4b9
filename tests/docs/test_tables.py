"""Tables of pages are made of what studies wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("acc", "bwt", "cost.rows_trained", "cost.rows_forward", "cost.method_bytes")


def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_has_the_numbers_of_a_study(tmp_path: Path, monkeypatch):
    (tmp_path / "made").mkdir()
    heads = ",".join(f"{key}{suffix}" for key in KEYS for suffix in ("", "_std", "_n"))
    (tmp_path / "made/table.csv").write_text(
        f"point,ranks,runs,{heads}\n"
        "er · W=1,1,4,0.8,0.02,4,,,0,100.0,0.0,4,0.0,0.0,4,0.0,0.0,4\n"
        "er · W=2,2,1 of 4,0.79,nan,1,-0.1,nan,1,50.0,nan,1,0.0,nan,1,0.0,nan,1\n"
        "mir · W=1,1,0 of 4,,,0,,,0,,,0,,,0,,,0\n"
        "mir · W=2,2,4,0.7,0.04,4,-0.2,0.0,4,75.0,0.0,4,250.0,0.0,4,8000.0,0.0,4\n"
    )
    module = tables()
    monkeypatch.setattr(module, "STUDIES", tmp_path)
    page = module.on_page_markdown("Before\n\n<!-- study made base=er -->\n\nafter", page=None)
    assert page.splitlines() == [
        "Before",
        "",
        "|  | 1 rank, % | 2 ranks, % | runs | backward transfer, % | cost | memory, kB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| er | 80.00 ± 1.00 | 79.0 | 4 and 1 | - | 1.00 | 0 |",
        "| mir | - | 70.00 ± 2.00 | 0 and 4 | -20.00 ± 0.00 | 1.50 + 5.00 | 8 |",
        "",
        "after",
    ]


def test_every_table_that_a_page_asks_for_can_be_made():
    module = tables()
    for page in (ROOT / "docs").glob("*.md"):
        found = module.on_page_markdown(page.read_text(), page=None)
        assert "<!-- study " not in found
