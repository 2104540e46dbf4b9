"""A mix as a few hundred bytes of JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drb.data.mix.mix import Mix
from drb.data.mix.order import VIRTUAL_OWNERS, MixedPart, Size, SourceOrder, StreamOrder
from drb.data.mix.timeline import Change, Pace, Segment, Timeline

_FORMAT = "drb-mix 2"


def state_of(mix: Mix) -> dict[str, Any]:
    """All that the order of a mix depends on."""
    return {
        "format": _FORMAT,
        "seed": mix.seed,
        "owners": VIRTUAL_OWNERS,
        "sources": [
            {
                "name": part.name,
                "max_visits": part.max_visits,
                "stream": part.is_stream,
                "sizes": [
                    [size.first, size.count, fingerprint]
                    for size, fingerprint in zip(part.order.sizes, part.fingerprints, strict=True)
                ],
            }
            for part in mix.parts
        ],
        "changes": [[each.step, each.start, dict(each.shares), each.at_period_end] for each in mix.changes],
        "segments": [[each.start, list(each.shares), int(each.ended)] for each in mix.timeline.segments],
        "paces": [[each.step, each.start, each.batch, each.epoch] for each in mix.timeline.paces],
    }


def mix_from(state: Mapping[str, Any]) -> Mix:
    """The mix that a state describes.

    Raises:
        ValueError: it is no state of a mix, or one of another format.
    """
    is_known = isinstance(state, Mapping) and state.get("format") == _FORMAT and state.get("owners") == VIRTUAL_OWNERS
    if not is_known:
        found = state.get("format") if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"the state of a mix must have the format {_FORMAT!r} of this version of drb, got {found!r}")
    try:
        return _mix_from(state)
    except (KeyError, TypeError, IndexError, AttributeError, StopIteration, ValueError) as error:
        raise ValueError(f"the state of the mix is damaged: {type(error).__name__} {error}") from error


def _mix_from(state: Mapping[str, Any]) -> Mix:
    mix = Mix(int(state["seed"]))
    for source in state["sources"]:
        is_stream, sizes = bool(source["stream"]), _sizes(source["sizes"])
        order = StreamOrder() if is_stream else SourceOrder(mix.seed, len(mix.parts), sizes)
        fingerprints = [str(fingerprint) for _, _, fingerprint in source["sizes"]]
        mix.parts.append(MixedPart(source["name"], source["max_visits"], order, fingerprints))
    for step, start, shares, at_period_end in state["changes"]:
        named = {str(name): int(share) for name, share in shares.items()}
        mix.changes.append(Change(int(step), named, int(start), bool(at_period_end)))
    mix.timeline = Timeline(paces=[Pace(*map(int, pace)) for pace in state["paces"]])
    for start, shares, ended in state["segments"]:
        served = mix.served(start) if mix.timeline.segments else [0] * len(mix.parts)
        mix.timeline.segments.append(Segment(int(start), tuple(shares), tuple(served), bool(ended)))
    return mix


def _sizes(saved: Sequence[Sequence[Any]]) -> list[Size]:
    sizes: list[Size] = []
    for first, count, _ in saved:
        epoch = sizes[-1].epoch + (first - sizes[-1].first) // sizes[-1].count if sizes else 0
        sizes.append(Size(int(first), int(count), epoch))
    return sizes
