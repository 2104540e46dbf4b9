"""What a classifier's outputs mean, so that a head that was learnt elsewhere is put on the classes it was learnt on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drb.checkpoint.directory import CheckpointDirectory
from drb.checkpoint.format import MANIFEST, read_manifest, read_part

DESCRIPTION_FILE = "model.json"  # of a run that has finished
OUTPUTS = "outputs"  # among the facts of a checkpoint
_NAMED_AT_MOST = 4


@dataclass(frozen=True)
class Outputs:
    """names: of the classes by output; numbers where classes have no names. dataset: the data set's name."""

    names: tuple[str, ...]
    dataset: str

    def first(self, count: int) -> Outputs:
        """The outputs of a head with so many rows."""
        return replace(self, names=self.names[:count])

    def taken_from(self, others: Outputs) -> tuple[list[int], str]:
        """For each output the one of `others` that means the same class, or -1; and what is odd about it, in words."""
        places = {name: place for place, name in enumerate(others.names)}
        rows = [places.get(name, -1) for name in self.names]
        new = [name for name, row in zip(self.names, rows, strict=True) if row < 0]
        unused = [name for name in others.names if name not in self.names]
        if len(new) == len(rows):
            return rows, f"its head is of other classes ({_some(others.names)}), and this one is left as initialised"
        notes = []
        if rows != list(range(len(others.names))):
            left = f", and left as initialised for {_some(new)}" if new else ""
            left += f"; nothing took those of {_some(unused)}" if unused else ""
            notes.append(f"rows of the head were taken by the names of classes{left}")
        if self.dataset != others.dataset and self.names[0].isdigit():
            notes.append(f"its head was learnt on the numbered classes of dataset={others.dataset}")
        return rows, "; ".join(notes)


def rows_taken(own: Mapping[str, Tensor], offered: Mapping[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    """The tensors of a head with offered rows where there are some, and its own elsewhere."""
    chosen = torch.tensor(rows)
    taken = {name: tensor.clone() for name, tensor in own.items()}
    for name, tensor in taken.items():
        tensor[chosen >= 0] = offered[name].to(tensor)[chosen[chosen >= 0]]
    return taken


def saved_outputs(path: Path) -> Outputs | None:
    """What the outputs of the network at `path` mean, if a run has left it there; None if nobody has said.

    Args:
        path: as for `drb.training.models.weights.read_weights`.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).exists():
        facts = read_part(folder, read_manifest(folder), "trainer")
        return _outputs(facts.get(OUTPUTS))
    if (folder / DESCRIPTION_FILE).exists():
        return _outputs_of_run(folder / DESCRIPTION_FILE)
    checkpoints = CheckpointDirectory(folder / "checkpoints", 1).checkpoints() if path.is_dir() else []
    return saved_outputs(checkpoints[-1]) if checkpoints else None


def _outputs_of_run(file: Path) -> Outputs | None:
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        numbers = [str(output) for output in range(described["num_outputs"])]
        names = described["classes"] or numbers if described.get("has_classes", described["classes"]) else None
        return None if names is None else _outputs({"names": names[: len(numbers)], "dataset": described["dataset"]})
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        return None


def _outputs(saved: Any) -> Outputs | None:
    return None if not saved else Outputs(tuple(map(str, saved["names"])), str(saved["dataset"]))


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMED_AT_MOST]) + (", …" if len(names) > _NAMED_AT_MOST else "")
