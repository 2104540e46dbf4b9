"""A rehearsal in checkpoints of `torch.distributed.checkpoint`, which by itself would keep rank 0's buffer only.

    dcp.save({"model": model.state_dict(), "rehearsal": DcpState(rehearsal)}, checkpoint_id=path)
    dcp.load({"model": state, "rehearsal": DcpState(rehearsal)}, checkpoint_id=path)            # as many ranks
    rehearsal.load_state_dict(read_dcp_states(path, "rehearsal"), owner_of=sampler.owner_of)    # another number

Every rank saves its own state under a name of its own, as one block of bytes (safetensors).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint

from drb.checkpoint.tree import Split, join, split
from drb.rehearsal.rehearsal import Rehearsal

_SKELETON = "skeleton"  # the entry that holds the JSON


class DcpState:
    """A `Stateful` of torch.distributed.checkpoint for a rehearsal.

    Loading raises ValueError as `Rehearsal.load_state_dict` does, and torch's CheckpointException on more ranks than
    there were: then use `read_dcp_states`.
    """

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal

    def state_dict(self) -> dict[str, bytes]:
        """This rank's state as bytes, under this rank's name."""
        state = self._rehearsal.state_dict()
        return {_name(state["rank"]): _packed(state)}

    def load_state_dict(self, state: dict[str, bytes]) -> None:
        """Go on from what `state_dict` gave on this rank."""
        self._rehearsal.load_state_dict(_unpacked(next(iter(state.values()))))


def read_dcp_states(checkpoint_id: str | Path, name: str) -> list[dict[str, Any]]:
    """The rehearsal states of all ranks in a checkpoint, by rank, for `Rehearsal.load_state_dict`. Not collective.

    Args:
        name: under which the `DcpState` was saved.
    Raises:
        ValueError: the checkpoint has none of this name.
    """
    entries = FileSystemReader(checkpoint_id).read_metadata().state_dict_metadata
    found = sorted(key for key in entries if key.startswith(f"{name}.{_name(0)[:-6]}"))
    if not found:
        raise ValueError(f"the checkpoint {checkpoint_id} has no rehearsal {name!r}; it has {sorted(entries)[:5]}")
    blocks: dict[str, Any] = {name: dict.fromkeys((key[len(name) + 1 :] for key in found), b"")}
    load_checkpoint(blocks, checkpoint_id=checkpoint_id, no_dist=True)
    return [_unpacked(blocks[name][key[len(name) + 1 :]]) for key in found]


def _name(rank: int) -> str:
    return f"rank{rank:06d}"


def _packed(state: dict[str, Any]) -> bytes:
    parts = split(state)
    skeleton = torch.frombuffer(bytearray(json.dumps(parts.skeleton).encode()), dtype=torch.uint8)
    tensors: dict[str, Tensor] = {f"/{name}": value.contiguous() for name, value in parts.tensors.items()}
    return bytes(save({**tensors, _SKELETON: skeleton}))


def _unpacked(block: bytes) -> Any:
    tensors = load(block)
    skeleton = json.loads(bytes(tensors.pop(_SKELETON).numpy()))
    return join(Split(skeleton, {name[1:]: value for name, value in tensors.items()}))
