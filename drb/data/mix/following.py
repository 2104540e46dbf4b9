"""A mix begun, or taken up at a saved step, with what its user gives now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drb.data.mix.mix import Mix
from drb.data.mix.shares import integer_shares


@dataclass(frozen=True)
class Wanted:
    """A source as its user gives it; see `drb.data.mix.dataset.Part`."""

    name: str
    count: int
    share: int | float
    max_visits: int | None = None
    fingerprint: str = ""


def begin(wanted: Sequence[Wanted], batch_size: int, seed: int, *, epoch: int = 0) -> Mix:
    """A new mix; epoch: samples after which a step is short.

    Raises:
        ValueError: shares that make no mix, a name that comes twice, or a source without samples.
    """
    mix = Mix(seed)
    for each in wanted:
        mix.add(each.name, each.count, max_visits=each.max_visits, fingerprint=each.fingerprint)
    mix.change(0, {each.name: each.share for each in wanted}, batch_size=batch_size, epoch=epoch)
    return mix


def differences(mix: Mix, wanted: Sequence[Wanted], batch_size: int) -> list[str]:
    """In words, how what is wanted differs from what a mix has."""
    found = []
    for each in wanted:
        if each.name not in mix.names:
            found.append(f"source {each.name!r} is new")
            continue
        part = mix.parts[mix.number_of(each.name)]
        if part.count != each.count:
            found.append(f"source {each.name!r} has {each.count} samples, and had {part.count}")
        elif part.fingerprints[-1] != each.fingerprint:
            found.append(f"source {each.name!r} has other data")
        if part.max_visits != each.max_visits:
            found.append(f"source {each.name!r} has max_visits {each.max_visits}, and had {part.max_visits}")
    shares = integer_shares({each.name: each.share for each in wanted})
    if _served(shares) != _served(mix.asked):
        found.append(f"the shares are {_in_words(shares)}, and were {_in_words(mix.asked)}")
    if mix.timeline.paces[-1].batch != batch_size:
        found.append(f"the batch size is {batch_size}, and was {mix.timeline.paces[-1].batch}")
    return found


def follow(mix: Mix, step: int, wanted: Sequence[Wanted], batch_size: int, *, allow: bool, epoch: int = 0) -> list[str]:
    """Go on with a mix from a step on, with what is wanted now; returns the differences, in words.

    Raises:
        ValueError: there are some and they are not allowed; a source has shrunk, or has other data of the same number.
    """
    found = differences(mix, wanted, batch_size)
    if not found:
        return []
    if not allow:
        raise ValueError(
            f"the mix is not what it was when it was saved: {'; '.join(found)}; go on with the same, or allow changes"
        )
    has_other_ends = False
    for each in wanted:
        if each.name not in mix.names:
            mix.add(each.name, each.count, max_visits=each.max_visits, fingerprint=each.fingerprint)
            continue
        part = mix.parts[mix.number_of(each.name)]
        has_other_ends |= part.max_visits != each.max_visits
        part.max_visits = each.max_visits
        if part.count != each.count:
            mix.grow(each.name, each.count, step, each.fingerprint)
        elif part.fingerprints[-1] != each.fingerprint:
            raise ValueError(
                f"source {each.name!r} has as many samples as before, and they are others; give it another name"
            )
    shares = {each.name: each.share for each in wanted}
    if has_other_ends or _served(integer_shares(shares)) != _served(mix.asked):
        mix.change(step, shares)
    if mix.timeline.paces[-1].batch != batch_size:
        mix.change(step, batch_size=batch_size, epoch=epoch)
    return found


def _served(shares: dict[str, int]) -> dict[str, int]:
    return {name: share for name, share in shares.items() if share}


def _in_words(shares: dict[str, int]) -> str:
    return ", ".join(f"{name} {share}" for name, share in _served(shares).items())
