"""What a study is: points that are compared, each trained with several seeds.

A study's file has these keys:

    title     its name in headings (optional)
    settings  what all runs have in common, as on the command line of drb train: [experiment=digits, ...]
    points    what is compared: {name: [settings], ...}
    vary      settings that take several values each: {rehearsal.capacity: [100, 200]}; every combination with every
              point is a point of its own (optional)
    ranks     how many ranks a run has: a number, or several for a scaling study (default 2)
    seeds     a list of numbers (default [0])
    target    a score: the page then has the training time that each point takes to reach it (optional)

Its first line, a comment, is the question that the study asks.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drb.options import one_of_phrase
from drb.program.config import TrainConfig, check_config, compose_config
from drb.program.config.studies import question_of, read_study, study_files

_KEYS = ("title", "settings", "points", "vary", "ranks", "seeds", "target")
STARTS = {"torchrun": "torchrun --nproc-per-node={ranks} -m", "mpirun": "mpirun -n {ranks} python -m"}
"""How each launcher starts a run's ranks."""
_SET_BY_DRB = {
    "seed": "the key seeds of the study, or --seeds, says which seeds there are",
    "name": "each run is named after its point and seed",
    "hydra.run.dir": "each run has a directory below --out",
}


@dataclass(frozen=True)
class Point:
    """What is compared with other points of a study.

    name:     of the point in the study's file.
    settings: all that differ from drb's defaults, but for the seed.
    ranks:    how many ranks a run has.
    values:   what `vary` gives the point, by the setting's name.
    label:    the name with what tells the point from others of that name, for example 'rehearsal · capacity=100'.
    target:   the score whose training time counts; see `drb.study.quality`.
    """

    name: str
    settings: tuple[str, ...]
    ranks: int
    values: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    target: float | None = None

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.=+-]+", "-", self.label)


@dataclass(frozen=True)
class StudyRun:
    """One run: a point with a seed."""

    point: Point
    seed: int

    @property
    def name(self) -> str:
        """What the run is called in messages and in the tracker, for example 'rehearsal · capacity=100 · seed 2'."""
        return f"{self.point.label} · seed {self.seed}"

    @property
    def settings(self) -> list[str]:
        return [*self.point.settings, f"seed={self.seed}"]

    @property
    def folder(self) -> str:
        """Where the run's files are, below the study's folder."""
        return f"{self.point.folder}/seed-{self.seed}"

    def command(self, launcher: str = "torchrun") -> str:
        """A command line that repeats the run outside the study; launcher: one of STARTS."""
        return f"{STARTS[launcher].format(ranks=self.point.ranks)} drb.train {shlex.join(self.settings)}"


@dataclass(frozen=True)
class Study:
    """A study whose settings were not checked yet: see `check_study`."""

    name: str
    title: str
    question: str
    points: tuple[Point, ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> list[StudyRun]:
        """Every run: all points with the first seed, then all with the second. A stopped study so has every point."""
        return [StudyRun(point, seed) for seed in self.seeds for point in self.points]

    @property
    def varied(self) -> list[str]:
        """The settings that `vary` names."""
        return list(dict.fromkeys(key for point in self.points for key in point.values))

    def with_seeds(self, seeds: Sequence[int]) -> Study:
        return replace(self, seeds=tuple(dict.fromkeys(seeds)))


def load_study(name: str, extra: Sequence[str] = (), ranks: Sequence[int] | None = None) -> Study:
    """A study by its name, or by the path of its YAML file.

    Args:
        extra: settings of all runs that come after those of the study. They may not be what the study compares.
        ranks: other numbers of ranks than the study's.
    Raises:
        ValueError: there is no such study, its file is not as the module describes, or extra changes what is compared.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else study_files().get(name)
    if path is None:
        raise ValueError(
            f"there is no study {name!r}: choose {one_of_phrase(list(study_files()))}, or give a YAML file"
        )
    content = read_study(path)
    if odd := [key for key in content if key not in _KEYS]:
        raise ValueError(f"{path}: a study has no key {odd[0]!r}; its keys are {', '.join(_KEYS)}")
    own_ranks = content.get("ranks", 2)
    world_sizes = _numbers(path, "ranks", own_ranks if isinstance(own_ranks, list) else [own_ranks], least=1)
    tells_ranks = len(world_sizes) > 1 or len(ranks or ()) > 1
    if ranks is not None:
        world_sizes = list(dict.fromkeys(ranks))
    seeds = _numbers(path, "seeds", content.get("seeds", [0]), least=0)
    common = _settings(path, "settings", content.get("settings", []))
    named = _mapping(path, "points", content.get("points") or {path.stem: []})
    points = {str(point): _settings(path, f"points.{point}", each) for point, each in named.items()}
    vary = {str(key): _values(path, key, each) for key, each in _mapping(path, "vary", content.get("vary", {})).items()}
    own = [setting for each in points.values() for setting in each]
    _require_free(str(path), [*common, *own], _SET_BY_DRB)
    _require_free(str(path), own, dict.fromkeys(vary, "vary sets it for every point"))
    compared = dict.fromkeys([*map(_key, own), *vary], f"the study {path.stem} compares runs by it")
    _require_free("the command line", extra, {**_SET_BY_DRB, **compared})
    target = _target(path, content.get("target"))
    found = tuple(
        replace(point, target=target)
        for point in _points(common, points, vary, world_sizes, extra, tells_ranks=tells_ranks)
    )
    _require_different(path, found)
    return Study(path.stem, str(content.get("title", path.stem)), question_of(path), found, tuple(seeds))


def check_study(study: Study) -> dict[str, TrainConfig]:
    """The configuration of every point, with the study's first seed, by the point's label.

    Raises:
        ValueError: naming the point whose settings cannot be meant.
    """
    return {point.label: _checked_config(study, point) for point in study.points}


def _checked_config(study: Study, point: Point) -> TrainConfig:
    try:
        config, _ = compose_config([*point.settings, f"seed={study.seeds[0]}"], study.name)
        check_config(config, point.ranks)
        return config
    except ValueError as error:
        raise ValueError(f"study {study.name}, point {point.label!r}: {error}") from error


def _points(
    common: Sequence[str],
    points: Mapping[str, Sequence[str]],
    vary: Mapping[str, Sequence[Any]],
    world_sizes: Sequence[int],
    extra: Sequence[str],
    *,
    tells_ranks: bool,
) -> Iterator[Point]:
    for name, settings in points.items():
        for combination in itertools.product(*vary.values()):
            values = dict(zip(vary, combination, strict=True))
            varied = [f"{key}={_text(value)}" for key, value in values.items()]
            for ranks in world_sizes:
                phrases = [f"{key.rpartition('.')[2]}={value}" for key, value in values.items()]
                label = " · ".join([name, *phrases, *([f"W={ranks}"] if tells_ranks else [])])
                yield Point(name, (*common, *settings, *varied, *extra), ranks, values, label)


def _key(setting: str) -> str:
    return setting.partition("=")[0].lstrip("+")


def _require_free(where: str, settings: Sequence[str], taken: Mapping[str, str]) -> None:
    """Refuse settings that another one would replace, or that would replace it. taken: the keys, and why."""
    for setting in settings:
        if _key(setting) in taken:
            raise ValueError(f"{where}: {setting} cannot be set here: {taken[_key(setting)]}")


def _require_different(path: Path, points: Sequence[Point]) -> None:
    seen: dict[str, str] = {}
    for point in points:
        if point.folder in seen:
            raise ValueError(
                f"{path}: the points {seen[point.folder]!r} and {point.label!r} would share the folder {point.folder}; "
                "give each a name or value of its own"
            )
        seen[point.folder] = point.label


def _text(value: Any) -> str:
    """A value as it is written on the command line of drb train."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _target(path: Path, value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"{path}: target must be a number, such as 0.7 for an accuracy of 70 %, got {value!r}")
    return None if value is None else float(value)


def _numbers(path: Path, key: str, values: Any, least: int) -> list[int]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: {key} must be a list of whole numbers, got {values!r}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{path}: {key} must be whole numbers of at least {least}, got {value!r}")
    return list(dict.fromkeys(values))


def _settings(path: Path, key: str, given: Any) -> list[str]:
    if not isinstance(given, list) or any(not isinstance(each, str) or "=" not in each for each in given):
        raise ValueError(f"{path}: {key} must be a list of key=value, got {given!r}")
    return given


def _values(path: Path, key: Any, given: Any) -> list[Any]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"{path}: vary.{key} must be a list of values, got {given!r}")
    return given


def _mapping(path: Path, key: str, given: Any) -> Mapping[Any, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{path}: {key} must be a mapping, got {given!r}")
    return given
