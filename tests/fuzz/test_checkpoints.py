"""Damaged checkpoints and states: named in one sentence, or the state that was saved; never another one."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from checkpoint.runs import _digest
from fuzz.told import CASES, refusal
from samples import image_of, minibatch_of

from drb import Rehearsal
from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals
from drb.distributed.world import World

ODD = [None, True, -1, 0, 1, 2**40, 10**30, 1.5, "", "x", [], [1], {}, {"a": 1}, "0" * 8]


def find(run_dir, resume="auto"):
    """What a run would go on from, by the functions that the program uses."""
    settings = CheckpointSettings(resume=resume, keep_last=5)
    return Checkpointer(settings, run_dir, World(), signals=StopSignals([])).find()


def filled(**settings):
    rehearsal = Rehearsal(12, 4, verbose=False, **settings)
    for t in range(6):
        rehearsal.extend(minibatch_of(range(t * 8, t * 8 + 8)))
    return rehearsal


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run directory with two checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    rehearsal = filled(admission="class_balanced", proportions="stream")
    saver = Checkpointer(
        CheckpointSettings(every_steps=1, keep_last=5), folder, World(), signals=StopSignals([]), say=None
    )
    saver.begin_run({"config": {"seed": 1}, "tracking_run_id": None, "versions": {}}, lambda: lambda: None)
    for step in (1, 2):
        saver.begin_task(step - 1)
        state = {
            "trainer": {"steps": step},
            "model": {"w": torch.arange(50.0) * step},
            "optimizer": {"momentum": {"w": torch.ones(50)}},
            "rank": {"rehearsal": rehearsal.state_dict(), "random": torch.arange(9)},
        }
        saver.visit(step, lambda state=state: state)
        rehearsal.extend(minibatch_of(range(100 * step, 100 * step + 8)))
    saver.finish()
    rehearsal.close()
    return folder


def damage(path, rng):
    """Change one of a checkpoint's files; what was done."""
    files = sorted(file for file in path.iterdir() if file.is_file())
    file, other = rng.choice(files), rng.choice(files)
    content, kind = bytearray(file.read_bytes()), rng.randrange(9)
    if kind in (0, 1):
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    elif kind == 2:
        file.write_bytes(content[: rng.randrange(len(content))])
    elif kind == 3:
        file.write_bytes(content + bytes(rng.randrange(1, 9)))
    elif kind == 4:
        start = rng.randrange(len(content))
        file.write_bytes(content[:start] + bytes(len(content[start : start + 64])) + content[start + 64 :])
    elif kind == 5:
        kept = other.read_bytes()
        other.write_bytes(content)
        file.write_bytes(kept)
    elif kind == 6:
        file.unlink()
        if rng.random() < 0.3:
            file.mkdir()
    else:
        file = rng.choice([file for file in files if file.suffix == ".json"])
        with contextlib.suppress(ValueError):  # no JSON any more
            file.write_text(json.dumps(edited(json.loads(file.read_text()), rng)))
    return f"{kind} {file.name} {other.name}"


def edited(value, rng):
    """The JSON with one value of it replaced, renamed or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: inner for name, inner in value.items() if name != key}
        if rng.random() < 0.1:
            return {("../x" if name == key else name): inner for name, inner in value.items()}
        return {**value, key: edited(value[key], rng)}
    return rng.choice(ODD)


def content_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_files(run_dir, tmp_path):
    rng, refused = random.Random(4), 0
    older, newest = sorted((run_dir / "checkpoints").iterdir())
    expected = {path.name: _digest(find(run_dir, str(path)).state) for path in (older, newest)}
    assert len(set(expected.values())) == 2
    for case in range(CASES["checkpoints"]):
        copied = tmp_path / str(case)
        shutil.copytree(run_dir, copied)
        target = copied / "checkpoints" / newest.name
        what = [damage(target, rng) for _ in range(rng.choice([1, 1, 2]))]
        before, found = content_of(copied), []
        explicit = rng.random() < 0.6
        try:
            message = refusal(
                lambda c=copied, t=target, f=found, e=explicit: f.append(find(c, str(t) if e else "auto"))
            )
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        if message is None:
            allowed = {expected[newest.name]} | (set() if explicit else {expected[older.name]})
            assert _digest(found[0].state) in allowed, what
        else:
            refused += 1
            assert newest.name in message, what
        assert content_of(copied) == before, what  # reading changes nothing
        shutil.rmtree(copied)
    assert refused > CASES["checkpoints"] / 4


def mutate(state, rng):
    """A state with one value of it changed at random."""
    if isinstance(state, dict) and state and rng.random() < 0.9:
        key = rng.choice(sorted(state))
        if rng.random() < 0.1:
            return {name: value for name, value in state.items() if name != key}
        return {**state, key: mutate(state[key], rng)}
    if isinstance(state, np.ndarray) and state.size and rng.random() < 0.8:
        kind = rng.randrange(4)
        if kind == 0:
            return state[:-1]
        if kind == 1:
            return state.astype(np.int32)
        if kind == 2:
            return state[..., None]
        changed = state.copy()
        changed.flat[rng.randrange(state.size)] = rng.choice([0, 1, 77])
        return changed
    return rng.choice(ODD)


def test_states():
    """A state of which only the name of its data is odd is taken, with a warning; of no other is one given."""
    rng, refused, named = random.Random(5), 0, 0
    kinds = [{}, {"admission": "class_balanced"}, {"admission": "fifo", "proportions": "stream"}]
    kinds += [{"proportions": "balanced"}, {"admission": "random_replacement", "candidates": 4}]
    states = []
    for settings in kinds:
        with filled(**settings) as rehearsal:
            states.append((settings, rehearsal.state_dict()))
    for _ in range(CASES["states"]):
        settings, state = rng.choice(states)
        bad = mutate(copy.deepcopy(state), rng)

        def use(settings=settings, bad=bad):
            with Rehearsal(12, 4, verbose=False, **settings) as rehearsal:
                rehearsal.load_state_dict(bad)
                for t in range(20, 24):
                    batch = rehearsal.extend(minibatch_of(range(t * 8, t * 8 + 8)))
                    assert torch.equal(batch["image"][:8], image_of(range(t * 8, t * 8 + 8)))

        try:
            with warnings.catch_warnings(record=True) as given:
                warnings.simplefilter("always")
                is_refused = refusal(use) is not None
        except Exception as error:
            raise AssertionError(f"{settings}: {error!r}") from error
        refused += is_refused
        names_data = not is_refused and bad["settings"].get("data") is not None
        assert ["the state has data=" in str(warning.message) for warning in given] == [True] * names_data
        named += names_data
    assert refused > CASES["states"] / 3
    assert named
