"""Starting from given weights: a file or torchvision's, with a report of what fitted and what did not."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from drb.checkpoint.directory import CheckpointDirectory
from drb.checkpoint.format import MANIFEST, read_manifest, read_part
from drb.training.models.outputs import Outputs, rows_taken

WEIGHTS_FILE = "model.safetensors"  # of a run that has finished, in its directory
_TRAINED = "network."  # in drb's checkpoints
_HEAD = ("head.weight", "head.bias")  # of a head that has a row for each class
_WRAPPERS = ("state_dict", "model", "network")  # keys under which checkpoints commonly nest their weights


@dataclass(frozen=True)
class LoadReport:
    """Names of a network's tensors, and of those offered to it.

    loaded and missing are the network's; unexpected were offered in vain; mismatched are those of layers
    that have another shape, which were left as they were initialised. note says what is odd about the rows of the head.
    """

    origin: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    note: str = ""

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched or self.note)

    def __str__(self) -> str:
        left_out = [
            f"{kind} {len(names)} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
            for kind, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("other shape, left as initialised:", self.mismatched),
            )
            if names
        ]
        note = [self.note] if self.note else []
        return "; ".join([f"took {len(self.loaded)} tensors from {self.origin}", *left_out, *note])


def load_weights(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    origin: str,
    outputs: Outputs | None = None,
    offered_outputs: Outputs | None = None,
) -> LoadReport:
    """Copy what fits by name and shape into `network`.

    Names may be a Network's own, with or without DDP's `module.`, or those of the plain torchvision model.

    Args:
        outputs, offered_outputs: what the outputs of the network and of the weights mean. If both are known, a head of
            any number of rows is taken row by row, each class's row by its name; rows of classes that only the network
            has stay as they are initialised. If only those of the network are known, the rows of a head of the same
            shape are taken in their order, and the report notes it.
    Raises:
        ValueError: nothing fits.
    """
    own = network.state_dict()
    offered = {_own_name(name): tensor for name, tensor in weights.items()}
    common = own.keys() & offered.keys()
    # a bias without its weight is worth nothing: a layer is taken whole or not at all
    misfits = {_layer(name) for name in common if own[name].shape != offered[name].shape}
    fitting = {name: offered[name] for name in own if name in common and _layer(name) not in misfits}
    note = ""
    if outputs is not None and _have_heads_of_one_width(own, offered):
        # a head that grows has fewer rows than there are classes
        means, meant = _first(outputs, len(own[_HEAD[0]])), _first(offered_outputs, len(offered[_HEAD[0]]))
        if means is not None and meant is not None:
            rows, note = means.taken_from(meant)
            fitting.update(rows_taken({name: own[name] for name in _HEAD}, offered, rows))
        elif fitting.keys() >= set(_HEAD):
            note = "nothing tells the classes of its head, whose rows were taken in their order"
    report = LoadReport(
        note=note,
        origin=origin,
        loaded=tuple(fitting),
        missing=tuple(name for name in own if name not in common),
        unexpected=tuple(sorted(offered.keys() - common)),
        mismatched=tuple(name for name in own if name in common and name not in fitting),
    )
    if not fitting:
        raise ValueError(f"none of the weights in {origin} fits the model ({report}); is it another model's file?")
    network.load_state_dict(fitting, strict=False)
    return report


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, of a run or of one of drb's checkpoints by name; nothing is unpickled but tensors.

    Args:
        path: a .safetensors file or a torch checkpoint; the directory of a run, whose final weights or newest
            checkpoint count; a checkpoint of drb.
    Raises:
        ValueError: no such file, or not one of weights.
    """
    if path.is_dir():
        return _weights_in_folder(path)
    try:
        if path.suffix == ".safetensors":
            return _without_prefix(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(f"the weights file {path} cannot be read ({type(error).__name__}: {error})") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = (
        {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise ValueError(f"the weights file {path} holds no tensors by name; save model.state_dict()")
    return tensors


def _weights_in_folder(folder: Path) -> dict[str, Tensor]:
    """The weights of a run, or of a checkpoint."""
    if (folder / MANIFEST).exists():
        return _without_prefix(read_part(folder, read_manifest(folder), "model"))
    if (folder / WEIGHTS_FILE).exists():
        return read_weights(folder / WEIGHTS_FILE)
    checkpoints = CheckpointDirectory(folder / "checkpoints", 1).checkpoints()
    if not checkpoints:
        raise ValueError(
            f"{folder} holds no weights: it is neither a checkpoint nor a run that has {WEIGHTS_FILE} or a checkpoint"
        )
    return _weights_in_folder(checkpoints[-1])


def _without_prefix(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the network that was trained, where drb's checkpoint has more than those."""
    own = {name.removeprefix(_TRAINED): value for name, value in weights.items() if name.startswith(_TRAINED)}
    return own if any(name.startswith("head.") for name in own) else dict(weights)


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """torchvision's default pretrained weights of its model `name`.

    Raises:
        ValueError: there are none, or they cannot be downloaded.
    """
    from torchvision.models import get_model_weights

    try:
        chosen = get_model_weights(name).DEFAULT
    except ValueError:
        raise ValueError(
            f"torchvision has no pretrained weights for the model {name!r}; use resnet18, resnet50, or init=random"
        ) from None
    try:
        weights: dict[str, Tensor] = chosen.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"torchvision's weights {chosen} cannot be downloaded ({error}); fetch {chosen.url} elsewhere and "
            "set init to its path"
        ) from error
    return weights


def _have_heads_of_one_width(own: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> bool:
    """Whether both have a head with a row for each class, of as many features."""
    return all(name in own and name in offered and own[name].shape[1:] == offered[name].shape[1:] for name in _HEAD)


def _first(outputs: Outputs | None, count: int) -> Outputs | None:
    """What so many outputs mean; None if not all of them are known."""
    return None if outputs is None or count > len(outputs.names) else outputs.first(count)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _own_name(name: str) -> str:
    name = name.removeprefix("module.")
    if name.startswith(("body.", "head.")):
        return name
    return f"head.{name[3:]}" if name.startswith("fc.") else f"body.{name}"
