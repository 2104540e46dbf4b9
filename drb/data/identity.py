"""What a run's data is, so that a run that goes on can tell whether its data is what it was.

An identity is small and JSON: the classes' names in the order of their labels, for each part of the data how many
samples it has and a hash of them, and how files become pixels. It is saved with every checkpoint. Files are known by
their names and sizes. Modification times are compared, too, but data that was copied has new ones, so a difference in
them alone is told and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

_NAMED_AT_MOST = 3


@dataclass(frozen=True)
class Identity:
    """What the data is.

    source:   the data's name
    classes:  names by label; empty where labels are numbers only
    parts:    "train/cat" (or "train") -> [number of samples, hash of them]; of files also a hash of their modification
              times and the name of the one that was written last
    decoding: what decides the pixels besides the files
    """

    source: str = "unnamed"
    classes: tuple[str, ...] = ()
    parts: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    decoding: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "classes": list(self.classes), "parts": {k: list(v) for k, v in self.parts.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Identity:
        return cls(value["source"], tuple(value["classes"]), value["parts"], value["decoding"])

    @property
    def fingerprint(self) -> str:
        """The source and a hash of all that `changes_since` compares, for what has no room for more."""
        content = self.to_json() | {"parts": {name: list(part[:2]) for name, part in self.parts.items()}}
        digest = blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8)
        return f"{self.source} {digest.hexdigest()}"

    def changes_since(self, saved: Identity, then: str = "had") -> list[str]:
        """What differs, in words: a phrase for each difference, the classes first; empty if it is the same data.

        then: what phrases say before the other value; "rank 0 has" if that is of another rank.
        """
        before, now = saved.to_json(), self.to_json()
        changes = [
            f"this has the {name} {_shown(now[name])} and {then} {_shown(before[name])}"
            for name in ("source", "decoding")
            if now[name] != before[name]
        ]
        if self.classes[: len(saved.classes)] != saved.classes:
            changes.append(f"this has the classes {_shown(self.classes)} and {then} {_shown(saved.classes)}")
        elif self.classes != saved.classes:
            changes.append(f"new classes {_shown(self.classes[len(saved.classes) :])}")
        parts = [
            _change(name, before["parts"].get(name, (0, "")), now["parts"].get(name, (0, "")), then)
            for name in [*before["parts"], *(now["parts"].keys() - before["parts"].keys())]
            if before["parts"].get(name, ())[:2] != now["parts"].get(name, ())[:2]
        ]
        return changes + _some(parts)

    def rewritten_since(self, saved: Identity) -> list[str]:
        """Parts whose files have the same names and sizes as before, but other modification times, in words."""
        before = saved.to_json()["parts"]
        parts = {name: part for name, part in self.parts.items() if list(part[:2]) == before.get(name, [])[:2]}
        return _some([f"{name}{_last(part)}" for name, part in parts.items() if list(part[2:3]) != before[name][2:3]])


def hash_of_tensors(*tensors: Tensor) -> str:
    """16 hexadecimal digits for the bytes of some tensors."""
    digest = blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _change(name: str, before: Sequence[Any], now: Sequence[Any], then: str) -> str:
    if not before[0]:
        return f"{name} is new, with {now[0]} samples"
    if before[0] != now[0]:
        return f"{name} has {now[0]} samples and {then} {before[0]}{_last(now) if now[0] > before[0] else ''}"
    return f"{name} has {now[0]} samples as before, but some are others{_last(now)}"


def _last(part: Sequence[Any]) -> str:
    return f" (written last: {part[3]})" if len(part) > 3 else ""


def _some(phrases: list[str]) -> list[str]:
    more = len(phrases) - _NAMED_AT_MOST
    return phrases[:_NAMED_AT_MOST] + ([f"and {more} more"] if more > 0 else [])


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
