"""A mix begun, or taken up at a saved step, with what its user gives now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from torch.utils.data import IterableDataset

from drb.data.mix.mix import Mix
from drb.data.mix.shares import integer_shares
from drb.data.mix.timeline import Change
from drb.options import whole_number

Shares: TypeAlias = Mapping[str, int | float]


class Part(NamedTuple):
    """A source of a mix.

    name: by which its history is told. dataset: map-style, of (image, label) pairs or dicts, or an iterable of such,
    which is a stream without an end (see `drb.data.mix.stream`). share: an integer, or a fraction if those of all
    sources sum to 1. max_visits: epochs after which it is not served any more; None: no bound. fingerprint: of the
    data, such as a hash of its file, by which other data of the same length are refused; '' if unknown.
    """

    name: str
    dataset: Any
    share: int | float
    max_visits: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Wanted:
    """A source as its user gives it; see `Part`. count: None for a stream."""

    name: str
    count: int | None
    share: int | float
    max_visits: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Plan:
    """What is asked of a mix.

    batch_size: samples of a step. schedule: the shares from later steps on, by step; a source that one does not name is
    not served. epoch: samples after which a step is short; 0: never.
    """

    sources: Sequence[Wanted]
    batch_size: int
    schedule: Mapping[int, Shares] = field(default_factory=dict)
    epoch: int = 0

    @property
    def shares(self) -> dict[str, int | float]:
        """The shares at the beginning, by name."""
        return {each.name: each.share for each in self.sources}

    def changes_from(self, step: int) -> list[Change]:
        """The shares asked for at a step, as if from this step on, and the changes after it.

        Raises:
            ValueError: shares that make no mix, or a step that is no integer or below 1.
        """
        steps = [whole_number("a step of the schedule of shares", each, at_least=1) for each in self.schedule]
        at = dict(zip(steps, self.schedule.values(), strict=True))
        now = at[max(earlier)] if (earlier := [each for each in at if each <= step]) else self.shares
        later = {each: at[each] for each in sorted(at) if each > step}
        return [Change(each, integer_shares(shares)) for each, shares in {step: now, **later}.items()]


def begin(plan: Plan, seed: int) -> Mix:
    """A new mix.

    Raises:
        ValueError: shares that make no mix, a name that comes twice, or a source without samples.
    """
    mix = Mix(seed)
    for each in plan.sources:
        mix.add(each.name, each.count, max_visits=each.max_visits, fingerprint=each.fingerprint)
    mix.change(0, plan.shares, batch_size=plan.batch_size, epoch=plan.epoch)
    for change in plan.changes_from(0)[1:]:
        mix.change(change.step, change.shares)
    return mix


def differences(mix: Mix, step: int, plan: Plan) -> list[str]:
    """In words, how what is asked from a step on differs from what a mix has."""
    found = []
    for each in plan.sources:
        if each.name not in mix.names:
            found.append(f"source {each.name!r} is new")
            continue
        part = mix.parts[mix.number_of(each.name)]
        if part.is_stream != (each.count is None):
            found.append(f"source {each.name!r} is {_kind(each.count is None)}, and was {_kind(part.is_stream)}")
        elif each.count not in (None, part.count):
            found.append(f"source {each.name!r} has {each.count} samples, and had {part.count}")
        elif part.fingerprints[-1] != each.fingerprint:
            found.append(f"source {each.name!r} has other data")
        if part.max_visits != each.max_visits:
            found.append(f"source {each.name!r} has max_visits {each.max_visits}, and had {part.max_visits}")
    (now, *later), (before, *later_before) = plan.changes_from(step), mix.changes_from(step)
    if _served(now) != _served(before):
        found.append(f"the shares are {_in_words(now)}, and were {_in_words(before)}")
    if [(each.step, _served(each)) for each in later] != [(each.step, _served(each)) for each in later_before]:
        found.append(f"the schedule has {_schedule_in_words(later)}, and had {_schedule_in_words(later_before)}")
    if mix.timeline.paces[-1].batch != plan.batch_size:
        found.append(f"the batch size is {plan.batch_size}, and was {mix.timeline.paces[-1].batch}")
    return found


def follow(mix: Mix, step: int, plan: Plan, *, allow: bool) -> list[str]:
    """Go on with a mix from a step on, with what is asked now; returns the differences, in words.

    Raises:
        ValueError: there are some and they are not allowed; a source has shrunk, or has other data of the same number.
    """
    found = differences(mix, step, plan)
    if not found:
        return []
    if not allow:
        raise ValueError(
            f"the mix is not what it was when it was saved: {'; '.join(found)}; go on with the same, or allow changes"
        )
    before = mix.changes_from(step)
    mix.cut(step)
    has_other_ends = False
    for each in plan.sources:
        has_other_ends |= _follow_source(mix, step, each)
    if mix.timeline.paces[-1].batch != plan.batch_size:
        mix.change(step, batch_size=plan.batch_size, epoch=plan.epoch)
    now, *later = plan.changes_from(step)
    if has_other_ends or _served(now) != _served(before[0]):
        mix.change(step, now.shares)
    for change in later:
        mix.change(change.step, change.shares)
    return found


def _follow_source(mix: Mix, step: int, wanted: Wanted) -> bool:
    """Add a source or let it grow; whether a known one has another max_visits."""
    if wanted.name not in mix.names:
        mix.add(wanted.name, wanted.count, max_visits=wanted.max_visits, fingerprint=wanted.fingerprint)
        return False
    part = mix.parts[mix.number_of(wanted.name)]
    if part.is_stream != (wanted.count is None):
        raise ValueError(f"source {wanted.name!r} was {_kind(part.is_stream)}; give what it is now another name")
    has_other_end, part.max_visits = part.max_visits != wanted.max_visits, wanted.max_visits
    if wanted.count is not None and part.count != wanted.count:
        mix.grow(wanted.name, wanted.count, step, wanted.fingerprint)
    elif part.fingerprints[-1] != wanted.fingerprint:
        raise ValueError(
            f"source {wanted.name!r} has as many samples as before, and they are others; give it another name"
        )
    return has_other_end


def has_length(part: Part) -> bool:
    """Whether a source has numbered samples; torch's iterable data sets only look so."""
    has_indices = hasattr(part.dataset, "__getitem__") and not isinstance(part.dataset, IterableDataset)
    return has_indices and hasattr(part.dataset, "__len__")


def readable(part: Part) -> Any:
    """The samples of a source by their numbers.

    Raises:
        ValueError: they cannot be read so.
    """
    if has_length(part):
        return part.dataset
    if not isinstance(part.dataset, Iterable):
        kind = type(part.dataset).__name__
        raise ValueError(
            f"source {part.name!r} must be a dataset with a length and indices, or an iterable, got {kind}"
        )
    from drb.data.mix.stream import Stream

    return Stream(part.name, part.dataset)


def _kind(is_stream: bool) -> str:
    return "a stream" if is_stream else "a dataset with a length"


def _served(change: Change) -> dict[str, int]:
    return {name: share for name, share in change.shares.items() if share}


def _in_words(change: Change) -> str:
    return ", ".join(f"{name} {share}" for name, share in _served(change).items())


def _schedule_in_words(changes: Sequence[Change]) -> str:
    return "; ".join(f"{_in_words(change)} from step {change.step} on" for change in changes) or "no change"
