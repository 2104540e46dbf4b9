"""A trained network as two files of a folder: `model.safetensors`, its weights, and `model.json`, what it is.

Nothing is pickled. `load_network` makes the network again; `model.init=FOLDER` starts another run from its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from drb.training.models import MODELS, build_model
from drb.training.models.network import Network
from drb.training.models.outputs import DESCRIPTION_FILE
from drb.training.models.weights import WEIGHTS_FILE, read_weights


def save_network(folder: Path, network: nn.Module, description: Mapping[str, Any]) -> list[Path]:
    """Write both files, each of them whole or not at all, and return their paths.

    Args:
        description: JSON values: `model`, the model's name and options; `image_shape` [C, H, W]; `num_outputs`; and
            what else its users should know.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    paths = [folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE]
    unfinished = [path.with_name(f".{path.name}.writing") for path in paths]
    try:
        save_file(weights, unfinished[0])
        unfinished[1].write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        for before, path in zip(unfinished, paths, strict=True):
            before.replace(path)
    except OSError:
        for path in unfinished:
            path.unlink(missing_ok=True)
        raise
    return paths


def load_network(folder: str | Path) -> Network:
    """The network of a finished run, in evaluation mode on the CPU.

    It takes float32 images [B, C, H, W] that were divided by 255 and then normalised by `mean` and `std` of model.json.

    Args:
        folder: a run's directory.
    Raises:
        ValueError: the files are not there, damaged, or of a model that is neither drb's nor imported.
    """
    folder = Path(folder)
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        options = dict(description["model"])
        model = MODELS.recall(options.pop("name"))
        shape, num_outputs = tuple(description["image_shape"]), int(description["num_outputs"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} holds no trained network: {DESCRIPTION_FILE} cannot be read ({error})") from error
    network = build_model(model, shape, num_outputs, **options)
    weights = read_weights(folder / WEIGHTS_FILE)
    if misfits := weights.keys() ^ network.state_dict().keys():
        raise ValueError(
            f"{folder / WEIGHTS_FILE} is not of the plain {description['model']['name']}, whose tensors are others "
            f"({', '.join(sorted(misfits)[:3])}, …): build it as the run did and load the weights with safetensors"
        )
    network.load_state_dict(weights)
    return network.eval()
