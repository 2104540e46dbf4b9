"""Docstrings say what a thing is or does: none begins with 'Of', 'As' or 'By', or with what is raised."""

from __future__ import annotations

import ast

from programs import ROOT

DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def test_no_docstring_begins_in_the_middle():
    wrong = []
    for path in sorted((ROOT / "drb").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            words = (ast.get_docstring(node) or "").split() if isinstance(node, DEFINITIONS) else []
            is_constructor = getattr(node, "name", "") == "__init__"  # the class says what it is
            if words and (words[0] in ("Of", "As", "By") or (words[0] == "Raises:" and not is_constructor)):
                wrong.append(f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}: {' '.join(words[:6])}")
    assert wrong == []
