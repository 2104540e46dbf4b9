"""Malformed command lines and configurations: one sentence that names the setting, or settings that can be used."""

from __future__ import annotations

import copy
import dataclasses
import random

import pytest
from fuzz.told import CASES, refusal

from drb import Rehearsal
from drb.program.config import check_config, compose_config
from drb.program.config.rehearsal import rehearsal_settings
from drb.program.config.variants import schemas

VALUES = ["null", "-1", "0", "1", "3", "1e9", "1.5", "nan", "inf", "-inf", "true", "abc", "[1,2]", "[]", "[a]", "{a:1}"]
VALUES += [
    "''",
    '"x y"',
    "30%",
    "20GiB",
    "1e400",
    "9999999999999999999999",
    "${seed}",
    "${x}",
    "0x10",
    "\\",
    "=",
    "a=b",
]
GROUPS = [
    "dataset",
    "scenario",
    "model",
    "strategy",
    "rehearsal",
    "optimizer",
    "schedule",
    "augmentation",
    "experiment",
]
NUMBERS = [-(10**30), -1, -0.5, 0, 1, 2, 3, 7, 0.5, 1.0, 10**6, 10**30, float("nan"), float("inf"), float("-inf")]
WORDS = ["", "x", "auto", "30%", "101%", "0B", "1GiB", "TERM", "total", "rank", "²", "cosine", "sqrt", "fixed"]


def leaves(config, prefix=""):
    """Dotted names of all settings."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def override(names, rng):
    name, value = rng.choice(names), rng.choice(VALUES)
    kind = rng.randrange(10)
    if kind == 0:
        return f"{rng.choice(GROUPS)}={rng.choice([*VALUES, 'standard', 'er', 'cnn', 'adam'])}"
    if kind == 1:
        spoilt = list(name)
        spoilt[rng.randrange(len(spoilt))] = rng.choice("xyz._/@~")
        return f"{''.join(spoilt)}={value}"
    if kind == 2:
        return rng.choice(["+", "++", "~", "-", "@"]) + f"{name}={value}"
    if kind == 3:
        return rng.choice([name, f"{name}==", f"={value}", f"{name} = {value}", f"{name}:{value}", value, ""])
    if kind == 4:
        return f"{name}.more={value}"
    return f"{name}={value}"


@pytest.fixture(scope="module")
def base():
    return compose_config([], "run")[0]


def use(config, world_size):
    """What a run does with the settings before it looks at data."""
    check_config(config, world_size)
    if config.strategy.name == "er":
        settings = rehearsal_settings(config.rehearsal, config.training, config.seed, world_size, 1000)
        Rehearsal(**{f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}, verbose=False).close()


@pytest.mark.parametrize("seed", [6, pytest.param(16, marks=pytest.mark.full)])
def test_command_lines(base, seed):
    rng, names, refused = random.Random(seed), list(leaves(base)), 0
    for _ in range(CASES["command lines"]):
        arguments = [override(names, rng) for _ in range(rng.choice([1, 1, 2]))]
        try:
            refused += refusal(lambda a=arguments: use(compose_config(a, "run")[0], rng.choice([1, 2, 4]))) is not None
        except Exception as error:
            raise AssertionError(f"{arguments}: {error!r}") from error
    assert refused > CASES["command lines"] / 3


def test_configurations(base):
    """Composed configurations with settings of the right type and wrong in every other way."""
    rng, refused = random.Random(7), 0
    names = [name for name in leaves(base) if not name.endswith(".name")]
    for _ in range(CASES["configurations"]):
        config = copy.deepcopy(base)
        if rng.random() < 0.3:
            group = rng.choice(["scenario", "model"])
            choice = rng.choice(sorted(schemas(group)))
            setattr(config, group, schemas(group)[choice]())
        changed = {}
        for name in rng.sample(names, rng.choice([1, 2, 3])):
            section, _, key = name.rpartition(".")
            owner = getattr(config, section) if section else config
            if not hasattr(owner, key):
                continue
            value = getattr(owner, key)
            new = odd_like(value, rng)
            changed[name] = new
            setattr(owner, key, new)
        try:
            message = refusal(lambda c=config: use(c, rng.choice([1, 2, 4])))
        except Exception as error:
            raise AssertionError(f"{changed}: {error!r}") from error
        if message is not None:
            refused += 1
            keys = [name.rpartition(".")[2] for name in changed]
            assert any(key in message for key in keys), (changed, message)
    assert refused > CASES["configurations"] / 4


def odd_like(value, rng):
    """Another value of a type that Hydra would let pass."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([number for number in NUMBERS if isinstance(number, int)])
    if isinstance(value, float):
        return float(rng.choice([number for number in NUMBERS if abs(number) < 10**20 or number != number]))
    if isinstance(value, list):
        return rng.choice([[], [-1], [0, 1], [3, 2], [10**9]]) if not value or isinstance(value[0], int) else ["x"]
    if isinstance(value, str):
        return rng.choice(WORDS)
    return rng.choice([None, 1])


def test_there_are_enough_cases():
    assert sum(CASES.values()) >= 3000
