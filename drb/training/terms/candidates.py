"""Candidates: the samples of all ranks among which the exemplars of a class are chosen at a task's end.

They are the exemplars of all tasks so far and the task's own samples. With methods that store it an exemplar has a
*mass*, the number of samples that it stands for: a late field of the record. Other samples have the mass 1.

Shapes: n candidates of this rank, m chosen exemplars of all ranks, D numbers of a point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.buffer.admission.class_balanced import level_quotas
from drb.rehearsal.edit import Edit
from drb.training.method.needs import MASS
from drb.training.method.structure import count_rows, rows_of
from drb.training.method.tasks import FinishedTask
from drb.training.terms.nearest_mean import normalised_features
from drb.types import Minibatch


@dataclass(frozen=True)
class Candidates:
    """Some samples of this rank, on the CPU.

    points: [n, D], what is compared: the network's inputs as they are stored, or features of length 1.
    labels, ids: int64 [n]. mass: float64 [n]. is_new: bool [n], those that are not stored yet.
    places: int64 [n], of stored ones in the lists of their classes.
    """

    points: Tensor
    labels: Tensor
    ids: Tensor
    mass: Tensor
    is_new: Tensor
    places: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: Tensor) -> Candidates:
        """Some of them. places: int64, or bool [n]."""
        return Candidates(*(getattr(self, name)[places] for name in self.__dataclass_fields__))

    def of_all_ranks(self, task: FinishedTask) -> Candidates:
        """Those of all ranks, by id, alike on all of them. Collective."""
        fields = {name: task.gather(getattr(self, name)) for name in self.__dataclass_fields__}
        return Candidates(**fields).at(fields["ids"].argsort())


@dataclass(frozen=True)
class Chosen:
    """The exemplars of all ranks from now on, alike on all of them.

    ids, labels: int64 [m]. places: int64 [m], in the lists of their classes. mass: float64 [m], if it is stored.
    values: by sample id, what is stored in place of the network's input: [D] in its dtype.
    """

    ids: Tensor
    labels: Tensor
    places: Tensor
    mass: Tensor | None = None
    values: Mapping[int, Tensor] = field(default_factory=dict)


def candidates_of(task: FinishedTask, edit: Edit, features: str, *, with_mass: bool = False) -> Candidates:
    """This rank's candidates. Collective.

    Args:
        features: "pixels", the network's inputs as they are stored; or "network", the features that it gives.
        with_mass: whether exemplars have one; else each counts 1.
    """
    parts: list[list[Tensor]] = []

    def add(inputs: Any, fields: Minibatch, mass: Tensor, places: Tensor, *, is_new: bool) -> None:
        raw = task.objective.inputs(fields).flatten(1)
        points = normalised_features(task.evaluated_network, inputs) if features == "network" else raw
        known = (points, task.objective.labels(fields), fields["sample_id"], mass)
        parts.append([*(each.cpu() for each in known), torch.full((len(raw),), is_new), places])

    keys = [torch.zeros(0, dtype=torch.int64), *(torch.from_numpy(part.key.view(np.int64)) for part in edit.stored())]
    places, at = torch.cat(keys), 0
    with torch.no_grad():
        for inputs, fields in task.stored_in(edit, *([MASS] if with_mass else [])):
            rows = count_rows(fields)
            mass = fields[MASS][:, 0].double().nan_to_num(1.0) if with_mass else torch.ones(rows, dtype=torch.float64)
            add(inputs, fields, mass, places[at : at + rows], is_new=False)
            at += rows
        stored = task.gather(torch.cat([torch.zeros(0, dtype=torch.int64), *(part[2] for part in parts)]))
        for inputs, fields in task.batches():
            own = fields["sample_id"].cpu()
            new = (edit.may_store(own) & ~torch.isin(own, stored)).nonzero()[:, 0]
            there, one = new.to(fields["sample_id"].device), torch.ones(len(new), dtype=torch.float64)
            add(rows_of(inputs, there), rows_of(fields, there), one, torch.zeros_like(new), is_new=True)
    return Candidates(*(torch.cat(each) for each in zip(*parts, strict=True)))


def quotas_of(task: FinishedTask, candidates: Candidates, capacity: int, most: int | None = None) -> dict[int, int]:
    """How many exemplars each class keeps: level counts that fill the capacity of all ranks. Collective.

    capacity: of all ranks. most: of a class; None: whatever there is room for.
    """
    labels = task.gather(candidates.labels)
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    counts = counts if most is None else np.minimum(counts, most)
    quotas = level_quotas(counts, min(capacity, int(counts.sum())))
    return dict(zip(classes.tolist(), quotas.tolist(), strict=True))


def store(task: FinishedTask, edit: Edit, chosen: Chosen) -> None:
    """Store what was chosen, and nothing else. A record keeps its place in its class's list as the key."""
    order = chosen.ids.argsort()
    ids, name = chosen.ids[order], str(getattr(task.objective, "input", "image"))

    def mass(sample_ids: Tensor) -> Minibatch:
        if chosen.mass is None:
            return {}
        return {MASS: chosen.mass[order[torch.searchsorted(ids, sample_ids)], None].float()}

    for part in list(edit.stored()):
        edit.remove(part.sample_id[~torch.isin(part.sample_id, ids)])
    here = torch.from_numpy(edit.sample_ids)
    for field_name, values in mass(here).items():
        edit.rewrite(field_name, values, here)
    _rewrite_inputs(task, edit, name, chosen.values)
    for _, fields in task.batches():
        own = fields["sample_id"].cpu()
        rows = torch.isin(own, ids).nonzero()[:, 0]
        taken = {key: value[rows.to(value.device)].cpu() for key, value in fields.items()}
        _put(taken[name], own[rows].tolist(), chosen.values)
        edit.insert({**taken, **mass(own[rows])}, chosen.places[order[torch.searchsorted(ids, own[rows])]])


def _rewrite_inputs(task: FinishedTask, edit: Edit, name: str, values: Mapping[int, Tensor]) -> None:
    """Write what is stored in place of the inputs of samples that this rank stores already."""
    changed = [sample for sample in edit.sample_ids.tolist() if sample in values]
    if changed:
        example = next(task.batches())[1][name]
        inputs = torch.empty((len(changed), *example.shape[1:]), dtype=example.dtype)
        _put(inputs, changed, values)
        edit.rewrite(name, inputs, torch.tensor(changed))


def _put(inputs: Tensor, ids: Sequence[int], values: Mapping[int, Tensor]) -> None:
    """Write what is stored in place of samples' inputs over them, [n, …]."""
    for place, sample in enumerate(ids):
        if sample in values:
            inputs[place] = values[sample].view(inputs.shape[1:])
