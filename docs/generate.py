"""Pages that mkdocs makes from the code at every build: configuration, methods, commands and examples.

mkdocs calls `on_files`; see `hooks` in mkdocs.yml.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "configuration": configuration_page,
        "methods": methods_page,
        "commands": commands_page,
        "examples": examples_page,
    }
    for name, make in pages.items():
        files.append(File.generated(config, f"generated/{name}.md", content=make()))
    return files


# -- configuration


def configuration_page() -> str:
    """Every setting of `drb train`: a table per group, from the dataclasses that check them."""
    from drb.program.config.rehearsal import KINDS
    from drb.program.config.schema import TrainConfig
    from drb.program.config.variants import GROUPS, schemas
    from drb.training.terms import TERMS

    text = [
        "# Configuration\n\nEvery setting of `drb train`, with its default and what it may be. Write `key=value` on "
        "the command line, for example `training.batch_size=64`, and `group=choice` to choose one of several, for "
        "example `model=resnet18`. `drb train --cfg` prints the whole configuration of a command line.\n",
        "## General\n",
        *_table(TrainConfig, ""),
    ]
    for group in dataclasses.fields(TrainConfig):
        section = group.default_factory
        if not dataclasses.is_dataclass(section):
            continue
        text.append(f"\n## {group.name}\n\n{_introduction(section)}\n")
        text += _table(section, f"{group.name}.")
        known = {field.name for field in dataclasses.fields(section)}
        for choice, options in (schemas(group.name) if group.name in GROUPS else {}).items():
            own = [field for field in dataclasses.fields(options) if field.name not in known]
            text.append(f"\n### {group.name}={choice}\n\n{_introduction(options)}\n")
            text += _table(options, f"{group.name}.", own) if own else ["It has no options of its own.\n"]
    for setting, variants in {**KINDS, "terms": TERMS}.items():
        name = setting if setting == "terms" else f"rehearsal.{setting}"
        text += [f"\n## The choices of {name}\n", *_choices(variants)]
    return "\n".join(text)


def methods_page() -> str:
    """Every strategy and term: what its module says, and a table of its options."""
    from drb.training.strategies import STRATEGIES
    from drb.training.terms import TERMS

    text = ["# Methods, one by one\n\n[Choose a method](../methods.md) compares them.\n"]
    for title, prefix, variants in (("Strategies", "strategy", STRATEGIES), ("Terms", "terms.{}", TERMS)):
        text.append(f"\n## {title}\n")
        for name, variant in variants.own.items():
            definition = inspect.cleandoc(sys.modules[variant.__module__].__doc__ or "")
            text.append(f"\n### {name}\n\n{definition}\n")
            has_options = [field for field in dataclasses.fields(variant) if field.init]
            text += _table(variant, f"{prefix.format(name)}.") if has_options else ["It has no options.\n"]
    return "\n".join(text)


def _choices(variants: Any) -> Iterator[str]:
    """A row for each of drb's own variants, from its docstring and its options."""
    from drb.variant import options_of

    yield "| choice | | options |\n|---|---|---|"
    for name, variant in variants.own.items():
        summary = (variant.__doc__ or "").strip().partition("\n")[0]
        options = ", ".join(f"`{option}`" for option in options_of(variant)) or "none"
        yield f"| `{name}` | {summary} | {options} |"


def _table(section: Any, prefix: str, fields: Any = None) -> Iterator[str]:
    described = _descriptions(section)
    yield "| setting | default | may be | |\n|---|---|---|---|"
    for field in dataclasses.fields(section) if fields is None else fields:
        if dataclasses.is_dataclass(field.default_factory) or (field.name == "name" and prefix):
            continue
        default = field.default if field.default is not dataclasses.MISSING else _made(field.default_factory)
        may_be = str(field.metadata.get("limits") or "").replace("|", "\\|")
        meaning = described.get(field.name, "")
        yield f"| `{prefix}{field.name}` | {_code(default)} | {may_be} | {meaning} |"


def _made(factory: Any) -> Any:
    return factory() if callable(factory) else "???"


def _code(default: Any) -> str:
    text = (
        {None: "null", True: "true", False: "false"}.get(default) if isinstance(default, (bool, type(None))) else None
    )
    return f"`{text or default}`" if str(default) else '`""`'


def _docstring_lines(section: type) -> list[str]:
    text = (section.__doc__ or "").strip()
    return [] if text.startswith(f"{section.__name__}(") else [line.strip() for line in text.splitlines()]


def _introduction(section: type) -> str:
    """The docstring up to the first description of a field."""
    names = {field.name for field in dataclasses.fields(section)}
    lines = []
    for line in _docstring_lines(section):
        if line.partition(":")[0] in names:
            break
        lines.append(line)
    return "\n".join(lines)


def _descriptions(section: type) -> dict[str, str]:
    """What docstrings (also those of base classes) say of each field, as `name: description`."""
    found: dict[str, str] = {}
    names = {field.name for field in dataclasses.fields(section)}
    for cls in reversed(section.__mro__):
        current = ""
        for line in _docstring_lines(cls):
            name, _, rest = line.partition(":")
            if name in names:
                current, found[name] = name, rest.strip()
            elif current and line:
                found[current] += f" {line}"
            else:
                current = ""
    return {name: text.replace("|", "\\|") for name, text in found.items()}


# -- commands


def commands_page() -> str:
    """The help text of every command."""
    from drb.cli import main

    names = re.findall(r"^    drb (\w+)", _output(lambda: main(["--help"])), re.MULTILINE)
    text = ["# Commands\n", "```", _output(lambda: main(["--help"])), "```\n"]
    for name in names:
        text += [f"## drb {name}\n", "```", _output(lambda name=name: main([name, "--help"])), "```\n"]
    return "\n".join(text)


def _output(call: Callable[[], Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        call()
    return out.getvalue().strip()


# -- examples


def examples_page() -> str:
    """The programs in examples/, each with its docstring as the text before the code."""
    text = ["# Examples\n\nThese programs are in `examples/`.\n"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text()
        docstring = ast.get_docstring(ast.parse(source)) or path.stem
        title, _, rest = docstring.partition("\n")
        code = re.sub(r'\A""".*?"""\s*', "", source, flags=re.DOTALL)
        text += [f"## {title.rstrip('.')}\n{rest}\n", f'```python title="examples/{path.name}"', code, "```\n"]
    return "\n".join(text)
