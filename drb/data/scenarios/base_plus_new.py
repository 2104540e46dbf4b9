"""Base plus new: in every epoch all of the new samples, and another exact part of the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drb.data.datasets import Dataset, View, erased_rows
from drb.data.mix.following import Wanted
from drb.data.mix.shares import integer_shares
from drb.data.scenarios.task import Scenario, Task, TaskMix, hold_out
from drb.options import setting
from drb.types import BoolArray, Int64Array
from drb.warn import warn_caller


class BasePlusNew(Scenario):
    """Train on all of the new samples in every epoch, with another part of the base, until the base is used up.

    The order is a formula of the seed and the step (docs/mix.md), the same on any number of ranks. The sources are
    `new`, `base` and, of dataset=arrivals, each earlier file that `shares` or `schedule` names (`weak` for weak.npz).

    new_classes: the classes that are new; [] takes the last part of dataset=arrivals.
    base_per_epoch: samples of the base in an epoch, at most all of it; None takes as many as there are new ones.
    shares: instead of base_per_epoch: integers by source in any proportion, or fractions that sum to 1, such as
        {new: 2, base: 1, weak: 1}. An epoch has as many samples as give all of the new ones once.
    schedule: other shares after so many optimisation steps, such as {1000: {new: 1, base: 1}}.
    max_visits: by source, how often each sample may come at most.
    """

    name = "base_plus_new"
    divides_by_count = True  # the order is a formula of the numbers of samples
    new_classes: list[int] = setting([], at_least=0)
    base_per_epoch: int | None = setting(None, at_least=1)
    shares: dict[str, float] = setting({})
    schedule: dict[int, Any] = setting({})  # {source: share}; OmegaConf takes no integers as floats inside
    max_visits: dict[str, int] = setting({})

    def begin(self, dataset: Dataset, seed: int) -> None:
        super().begin(dataset, seed)
        for steps, shares in self.schedule.items():
            if not isinstance(shares, Mapping):
                raise ValueError(
                    f"scenario.schedule must have shares by source for step {steps}, as in {{new: 1, base: 1}}; got "
                    f"{shares}"
                )
        self._is_new = self._find_new(dataset)
        count = int(self._is_new.sum())
        if count in (0, len(self._is_new)):
            raise ValueError(
                f"scenario=base_plus_new needs new samples and older ones, and {count} of {len(self._is_new)} are new; "
                "choose scenario.new_classes, or give dataset.files a base before what is new"
            )
        self._rows = self._rows_of_sources(dataset)
        if self.shares and self.base_per_epoch is not None:
            raise ValueError("scenario.shares and scenario.base_per_epoch say the same in two ways; leave one out")
        if self.shares and not self.shares.get("new"):
            raise ValueError("scenario.shares must give new a share above 0: an epoch has all of the new samples once")

    def _find_new(self, dataset: Dataset) -> BoolArray:
        """Which training samples are new, bool [n]."""
        if self.new_classes:
            found: BoolArray = np.isin(dataset.train.labels, self.new_classes)
            return found
        if len(dataset.arrivals) < 2:
            raise ValueError(
                "scenario=base_plus_new must know what is new: give scenario.new_classes, or dataset=arrivals with at "
                "least two files"
            )
        return np.arange(len(dataset.train)) >= len(dataset.train) - dataset.arrivals[-1].num_train

    def _rows_of_sources(self, dataset: Dataset) -> dict[str, BoolArray]:
        """Which training samples each source has, bool [n].

        Raises:
            ValueError: a setting names a source that there is not, or several files of its name.
        """
        files = np.repeat(np.arange(len(dataset.arrivals)), [each.num_train for each in dataset.arrivals])
        stems = [] if self.new_classes else [Path(each.name).stem for each in dataset.arrivals[:-1]]
        rows = {"new": self._is_new, "base": ~self._is_new}
        for setting_, names in self._named().items():
            for name in names:
                if name not in rows and stems.count(name) != 1:
                    known = dict.fromkeys(["new", "base", *stems])
                    problem = f"{stems.count(name)} files called so" if name in stems else "no such source"
                    raise ValueError(f"scenario.{setting_} has {name}: {problem}; the sources: {', '.join(known)}")
                if name not in rows:
                    rows[name] = files == stems.index(name)
                    rows["base"] = rows["base"] & ~rows[name]
        if not rows["base"].any():
            del rows["base"]
        return rows

    def _named(self) -> dict[str, list[str]]:
        """The names of sources in each of the settings."""
        scheduled = [name for shares in self.schedule.values() for name in shares]
        return {"shares": [*self.shares], "schedule": scheduled, "max_visits": [*self.max_visits]}

    def __iter__(self) -> Iterator[Task]:
        source = self.dataset.train
        train, held_out = hold_out(len(source), self.validation, self.seed, 0)
        if (erased := erased_rows(source)) is not None:
            train, held_out = train[~erased[train]], held_out[~erased[held_out]]
        rows = {name: train[of[train]] for name, of in self._rows.items()}
        shares = self.shares or self._counts_of_an_epoch(rows)
        if unknown := [name for name in shares if name not in rows]:
            raise ValueError(f"no samples are left for the source {unknown[0]}, which has a share; leave it out")
        whole = integer_shares(shares)
        yield Task(
            index=0,
            name="base and new",
            train=View(source, np.concatenate(list(rows.values()))),
            test=self.dataset.test,
            validation=View(source, held_out) if len(held_out) else None,
            classes=tuple(np.unique(source.labels).tolist()),
            mix=TaskMix(
                tuple(
                    Wanted(name, len(of), shares.get(name, 0), self.max_visits.get(name)) for name, of in rows.items()
                ),
                epoch=round(len(rows["new"]) * sum(whole.values()) / whole["new"]),
                schedule=self.schedule,
                origins={} if len(held_out) or erased is not None else self._origins(),
            ),
        )

    def _counts_of_an_epoch(self, rows: Mapping[str, Int64Array]) -> dict[str, float]:
        """All of the new samples, and as many of the base as asked for."""
        new, base = len(rows["new"]), len(rows.get("base", ()))
        if self.base_per_epoch is not None and self.base_per_epoch > base:
            warn_caller(f"scenario.base_per_epoch={self.base_per_epoch}, and the base has {base}: all in every epoch")
        return {"new": new, "base": min(self.base_per_epoch or new, base)}

    def _origins(self) -> dict[str, list[tuple[str, int]]]:
        """The files that the samples of each source are from, one behind the other, and how many each has."""
        if self.new_classes:
            return {}
        ends = np.cumsum([each.num_train for each in self.dataset.arrivals]).tolist()
        files = [(each.name, end - each.num_train) for each, end in zip(self.dataset.arrivals, ends, strict=True)]
        counts = {arrival.name: arrival.num_train for arrival in self.dataset.arrivals}
        return {
            name: [(file, counts[file]) for file, start in files if counts[file] and of[start]]
            for name, of in self._rows.items()
        }
