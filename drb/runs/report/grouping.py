"""Which runs are the same but for their seed, and what tells the others apart.

Runs are compared by the configuration in their summaries. Settings that cannot change what a run learns or how fast it
is, and the number of ranks, do not count.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from drb.runs.report import Summary

_IGNORED = (
    "name",
    "run_id",
    "seed",
    "console",
    "ledger",
    "timeout_s",
    "start_timeout_s",
    "dataset.root",
    "dataset.cache_dir",
    "checkpoint",
    "tracking",
    "profile",
    "profiling",
    "rehearsal.timeout_s",
)


def groups(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """The runs that differ in their seed and number of ranks alone, by a label that tells the groups apart.

    A label is the strategy, followed by the settings in which groups of that strategy differ, such as 'er capacity=20'.
    """
    found: dict[tuple[str, str], list[Summary]] = {}
    for summary in summaries:
        key = (str(summary["strategy"]), json.dumps(settings_of(summary), sort_keys=True))
        found.setdefault(key, []).append(summary)
    labels = _labels([members[0] for members in found.values()], [strategy for strategy, _ in found])
    return dict(zip(labels, found.values(), strict=True))


def run_labels(summaries: Sequence[Summary], besides: Collection[str] = ()) -> list[str]:
    """What to call each run: its name, followed by the settings in which runs of that name differ.

    besides: settings that are shown in another way.
    """
    return _labels(summaries, [str(summary["name"]) for summary in summaries], besides)


def settings_of(summary: Summary) -> dict[str, Any]:
    """The settings that decide what a run learns and how fast it is, by their dotted names."""
    flat = _flatten(summary.get("config") or {})
    return {
        name: value
        for name, value in flat
        if not any(name == ignored or name.startswith(f"{ignored}.") for ignored in _IGNORED)
    }


def _labels(summaries: Sequence[Summary], names: Sequence[str], besides: Collection[str] = ()) -> list[str]:
    """Each name with the settings in which runs of that name differ: a few of them, or all if those do not tell."""
    settings = [settings_of(summary) for summary in summaries]
    short, full = [], []
    for name, own in zip(names, settings, strict=True):
        others = [other for other_name, other in zip(names, settings, strict=True) if other_name == name]
        phrases = [_phrase(key, own.get(key)) for key in _differing(own, others) if key not in besides]
        full.append(" ".join([name, *phrases]))
        short.append(" ".join([name, *phrases[:_MOST_SETTINGS], *(["…"] if len(phrases) > _MOST_SETTINGS else [])]))
    telling = {label for label in short if len({f for s, f in zip(short, full, strict=True) if s == label}) == 1}
    return [label if label in telling else whole for label, whole in zip(short, full, strict=True)]


_MOST_SETTINGS = 4


def _differing(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which runs differ. Where they choose other variants, those are named and not their options."""
    keys = dict.fromkeys(key for other in others for key in {**own, **other} if own.get(key) != other.get(key))
    chosen = {key.removesuffix("name") for key in keys if key.endswith(".name")}
    return [key for key in keys if key.endswith(".name") or not any(key.startswith(group) for group in chosen)]


def _phrase(key: str, value: Any) -> str:
    return f"{(key.removesuffix('.name')).rpartition('.')[2]}={_shown(value)}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
