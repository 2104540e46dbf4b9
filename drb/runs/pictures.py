"""The sample ids of pictures that a run has trained on, by their files: what a person who must be forgotten knows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drb.checkpoint import Key
from drb.checkpoint.format import read_manifest, read_part
from drb.data.ids import ids_of_paths
from drb.runs.inspection import find_checkpoint


def ids_of_pictures(run_dir: Path, files: Sequence[str], key: Key | None = None) -> list[int]:
    """The ids of training pictures of a run on `dataset=image_folder`; they need not be there any more.

    Args:
        files: each as a path, or as CLASS/NAME below the folder `train`.
    Raises:
        ValueError: the run is on other data, or a file is none of its training pictures.
    """
    checkpoint = find_checkpoint(run_dir)
    facts = read_part(checkpoint, read_manifest(checkpoint), "trainer", key)
    settings: Mapping[str, Any] = facts["config"]["dataset"]
    if settings["name"] != "image_folder":
        raise ValueError(f"--file is for runs on dataset=image_folder, this one is on {settings['name']}: give --ids")
    classes = facts["data"]["classes"]
    called = [
        _called(file, Path(settings["root"]).expanduser() / "train", settings.get("renamed") or {}, classes)
        for file in files
    ]
    return [int(id) for id in ids_of_paths(settings["source"], "train", called)]


def _called(file: str, train: Path, renamed: Mapping[str, str], classes: Sequence[str]) -> bytes:
    """What an id is made of: the class and the path below its folder."""
    path = Path(file)
    if path.exists():
        try:
            path = path.resolve().relative_to(train.resolve())
        except ValueError:
            raise ValueError(f"{file} is not below {train}, from which the run has its training pictures") from None
    former = {now: before for before, now in renamed.items() if now}
    name, *below = path.parts
    name = former.get(name, name)
    if not below or name not in classes:
        raise ValueError(
            f"--file must be CLASS/NAME of a training picture, got {file}; the classes are {', '.join(classes[:20])}"
        )
    return os.fsencode("/".join([name, *below]))
