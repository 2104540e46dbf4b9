"""A run over several files by shares that change on the way: stopped, gone on with another future, and audited."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from drb.data.mix import mixture
from drb.runs.ledger import read_ledger
from drb.train import main
from drb.training.batches import Batches

FILES = {"base": 60, "weak": 12, "today": 30}
FAST = ["scenario=base_plus_new", "dataset=arrivals", "strategy=finetune", "model=mlp", "model.hidden=[8]", "threads=1"]
FAST += ["tracking=none", "training.batch_size=10", "training.batch_scope=total", "training.epochs=6"]
FAST += ["checkpoint.every_steps=5", "scenario.shares={new: 3, base: 2}", "scenario.max_visits={weak: 2}"]


@pytest.fixture
def job(tmp_path):
    """The arguments of a run."""
    for number, (name, count) in enumerate(FILES.items()):
        rng = np.random.default_rng(number)
        columns = {"image": rng.normal(size=(count, 4)).astype(np.float32), "label": np.arange(count) % 3}
        tested = {f"test_{key}": value[:6] for key, value in columns.items()}
        np.savez(tmp_path / f"{name}.npz", **columns, **tested)
    files = ",".join(f"'{tmp_path}/{name}.npz'" for name in FILES)
    return [*FAST, f"dataset.files=[{files}]", f"hydra.run.dir='{tmp_path}/run'"]


@pytest.fixture
def trained(monkeypatch):
    """The samples of each minibatch of this process, as (file, position); SIGTERM comes with the seventh."""
    seen, make = [], Batches.make
    names = list(FILES)

    def recording(self, minibatch, *arguments):
        ids = minibatch["sample_id"].tolist()
        seen.append(sorted((names[each >> 40], each % (1 << 40)) for each in ids))
        if len(seen) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return make(self, minibatch, *arguments)

    monkeypatch.setattr(Batches, "make", recording)
    return seen


def audited(run_dir, step):
    """The samples of a step as the ledger has them."""
    found = []
    for line in read_ledger(run_dir).step(step):
        file, _, position = line.partition("(")[2].rstrip(")").partition(", training sample ")
        found.append((os.path.basename(file).removesuffix(".npz"), int(position)))
    return sorted(found)


def test_the_audit_tells_what_was_trained_after_a_stop_and_a_change_of_the_schedule(job, trained, tmp_path, capsys):
    run_dir = tmp_path / "run"
    first = "4: {new: 1, base: 1, weak: 1}"
    assert main([*job, f"scenario.schedule={{{first}, 20: {{new: 1}}}}"]) == os.EX_TEMPFAIL
    assert main([*job, "scenario.schedule={5: {new: 1, base: 1, weak: 1}}"]) == 1
    error = capsys.readouterr().err
    steps = json.loads((run_dir / "INTERRUPTED").read_text())["step"]
    assert (
        f"has trained {steps} steps with scenario.schedule={{4: {{'new': 1, 'base': 1, 'weak': 1}}}} up to there"
        in error
    )
    assert main([*job, f"scenario.schedule={{{first}, 20: {{base: 1}}}}"]) == 0
    assert [audited(run_dir, step) for step in range(1, 31)] == trained
    files = [{name for name, _ in step} for step in trained]
    assert (
        files == [{"today", "base"}] * 4 + [{"today", "base", "weak"}] * 8 + [{"today", "base"}] * 8 + [{"base"}] * 10
    )
    ledger = read_ledger(run_dir)
    assert max(each.worst for each in mixture(ledger.mix, ledger.steps)) < 1
    content = json.loads((run_dir / "mix.json").read_text())
    assert [name for name, _ in content["origins"]["weak"]] == [f"{tmp_path}/weak.npz"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["scenario.shares={new: 3, base: 2, week: 1}"],
            "scenario.shares has week: no such source; the sources: new, ",
        ),
        (["scenario.base_per_epoch=20"], "scenario.shares and scenario.base_per_epoch say the same in two ways"),
        (["scenario.shares={new: 0, base: 2}"], "scenario.shares must give new a share above 0"),
        (["scenario.schedule={5: 3}"], "scenario.schedule must have shares by source for step 5, as"),
        (["scenario.schedule={0: {new: 1}}"], "a step of the schedule of shares must be at least 1, got 0"),
        (["scenario.shares={new: 3, base: two}"], "scenario.shares.base must be a number, got 'two'"),
        (["scenario.max_visits={new: 0}"], "max_visits of source 'new' must be at least 1, got 0"),
        (["scenario.schedule={5: {new: 1}}", "training.batch_scope=rank"], "set training.batch_scope=total"),
        (
            ["scenario.max_visits={new: 1, base: 1}"],
            "and training.epochs=6 of 50 samples want more; train for 1 epochs",
        ),
    ],
)
def test_what_makes_no_mix_ends_in_one_line(job, settings, message, capsys):
    assert main([*job, *settings]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
