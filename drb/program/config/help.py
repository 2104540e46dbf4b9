"""The text of `drb train --help`: examples, experiments, groups with their choices, and settings that are often set."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from drb.program.config.compose import STUDIES, compose_config, config_folder
from drb.program.config.rehearsal import KINDS
from drb.program.config.variants import GROUPS, TERMS_GROUP
from drb.training.terms import TERMS

_WIDTH = 100
_USAGE = """\
drb train: one continual-learning run.

usage:
    drb train [experiment=NAME] [group=choice ...] [key=value ...]                     one rank
    torchrun --nproc-per-node=N -m drb.train [the same]                                N ranks

    --cfg     print every setting of this command line with its value, and end
    --help    print this

examples:
    drb train experiment=digits seed=1
    torchrun --nproc-per-node=2 -m drb.train experiment=digits strategy=er rehearsal.capacity=100
    drb train dataset=image_folder dataset.root=/path/to/pictures model=resnet18 scenario.num_tasks=5
"""
_OFTEN = (
    "training.epochs",
    "training.batch_size",
    "optimizer.lr",
    "rehearsal.capacity",
    "rehearsal.exemplars",
    "scenario.num_tasks",
    "checkpoint.every_minutes",
    "seed",
    "name",
)
_END = """\
The run's files are in runs/NAME-TIME; hydra.run.dir=FOLDER chooses another folder. The same command with the same
folder goes on with a run that was stopped. Lists are written 'key=[a,b]'.
"""


def help_text() -> str:
    """The whole text."""
    config, _ = compose_config(["experiment=none"], "ID")
    settings = OmegaConf.structured(config)
    chosen = {f"rehearsal.{kind}": getattr(config.rehearsal, kind) for kind in KINDS} | _default_choices()
    lines = [
        _USAGE,
        "experiments (whole settings of a job; experiment=digits unless another data set is chosen):",
        *_columns(_experiments()),
        "",
        "groups and their choices (the default first), or the dotted path of a class of yours:",
        *_columns({group: " ".join(_first(chosen.get(group), names)) for group, names in choices().items()}),
        "",
        "settings that are often set, with the values that they have without an experiment:",
        *_columns({key: str(OmegaConf.select(settings, key)).replace("None", "null") for key in _OFTEN}),
        "",
        *textwrap.wrap(_END, _WIDTH),
    ]
    return "\n".join(lines) + "\n"


def choices() -> Mapping[str, Sequence[str]]:
    """The names that can be chosen, by what chooses among them."""
    files = {group: sorted(path.stem for path in (config_folder() / group).glob("*.yaml")) for group in _folders()}
    variants = {group: kind.variants.names() for group, kind in GROUPS.items()}
    return {
        **variants,
        f"{TERMS_GROUP}=[…]": TERMS.names(),
        **{group: names for group, names in files.items() if group not in variants and group != "experiment"},
        **{f"rehearsal.{kind}": variants.names() for kind, variants in KINDS.items()},
    }


def _default_choices() -> dict[str, str]:
    content: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "train.yaml"), resolve=False)
    entries = content["defaults"]
    return {group: str(choice) for entry in entries if isinstance(entry, dict) for group, choice in entry.items()}


def _folders() -> list[str]:
    return sorted(path.name for path in config_folder().iterdir() if path.is_dir() and path.name != STUDIES)


def _experiments() -> dict[str, str]:
    """What each experiment's file says of itself."""
    return {path.stem: _comment(path) for path in sorted((config_folder() / "experiment").glob("*.yaml"))}


def _comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("# ") and "@package" not in line)


def _first(default: str | None, names: Sequence[str]) -> list[str]:
    return [*([default] if default else []), *(name for name in names if name != default)]


def _columns(rows: Mapping[str, str]) -> Iterator[str]:
    """Aligned names, each with a text that is broken into lines."""
    width = max(map(len, rows)) + 2
    for name, text in rows.items():
        first, *more = textwrap.wrap(text, _WIDTH - width - 4, break_on_hyphens=False) or [""]
        yield f"    {name:{width}}{first}"
        yield from (" " * (4 + width) + line for line in more)
