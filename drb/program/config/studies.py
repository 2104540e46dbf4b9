"""Where the files of studies are, and what is in one: `drb.study.definition` checks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from drb.program.config.compose import STUDIES, config_folder


def study_files() -> dict[str, Path]:
    """The studies that drb brings along, by their names."""
    return {path.stem: path for path in sorted((config_folder() / STUDIES).glob("*.yaml"))}


def question_of(path: Path) -> str:
    """The first line of a study's file without its `#`: what the study asks."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def read_study(path: Path) -> dict[str, Any]:
    """The mapping in a study's file.

    Raises:
        ValueError: the file cannot be read, or is no mapping in YAML.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, ValueError, YAMLError) as error:
        raise ValueError(f"the study {path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the study {path} must be a mapping with the keys settings, points, vary, ranks and seeds")
    return {str(key): value for key, value in content.items()}
