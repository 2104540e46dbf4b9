"""Updates from a stream without an end: a state every N samples, killed and gone on with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from end_to_end.updates import FAST
from programs import TORCHRUN, Running
from safetensors.torch import load_file

from drb.data.cache import open_prefilled
from drb.data.ids import ids_of_paths
from drb.runs.lineage.record import read_lineage
from drb.training.phases import PhaseTrainer
from drb.update import main

MODULE = """
import itertools
import numpy as np

class Sensor:
    def __init__(self, end=None):
        self.end = end
    def __iter__(self):
        for number in itertools.count():
            if number == self.end:
                return
            rng = np.random.default_rng(number)
            label = number % 3
            yield {"image": (rng.normal(size=6) + 3 * np.eye(6)[label]).astype(np.float32), "label": label}

def endless():
    return Sensor()

def short(end):
    return Sensor(end)

def once():
    return iter(Sensor())
"""
NAME = "sensor_of_updates"
SETTINGS = [*FAST, "tracking=none", "training.epochs=2"]


@pytest.fixture
def sensor(tmp_path, monkeypatch):
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def follow(folder, *options, function="endless"):
    return main(["--state", str(folder), "--stream", f"{NAME}.{function}", *options, *SETTINGS])


def test_a_state_every_n_samples_killed_and_gone_on_with(sensor, monkeypatch, capsys):
    """An interrupted line of states is, bit for bit, one that was not, and has every sample of the stream once."""
    assert follow(sensor / "whole", "--every", "40", "--states", "3") == 0
    assert "has 3 states of the stream, as asked for" in capsys.readouterr().out
    step, seen = PhaseTrainer._optimisation_step, []

    def interrupt(self, *arguments):
        seen.append(1)
        if len(seen) == 14:  # of the second state
            raise KeyboardInterrupt
        step(self, *arguments)

    monkeypatch.setattr(PhaseTrainer, "_optimisation_step", interrupt)
    assert follow(sensor / "cut", "--every", "40", "--states", "3") == 130
    assert len(read_lineage(sensor / "cut").versions) == 1
    assert follow(sensor / "cut", "--every", "40", "--states", "3") == 0
    whole, cut = (read_lineage(sensor / name) for name in ("whole", "cut"))
    for one, other in zip(whole.versions, cut.versions, strict=True):
        assert (one.after, one.steps) == (other.after, other.steps)
        networks = [load_file(each.run_dir(one.number) / "model.safetensors") for each in (whole, cut)]
        assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0] | networks[1])
    read = [open_prefilled(sensor / "cut" / "stream" / version.data.rpartition("/")[2]) for version in cut.versions]
    ids = [np.concatenate([each.train.sample_ids, each.test.sample_ids]) for each in read]
    expected = ids_of_paths(f"stream {NAME}.endless", "train", (b"%d" % number for number in range(120)))
    for number, found in enumerate(ids):
        assert sorted(found) == sorted(expected[40 * number : 40 * number + 40])
    assert follow(sensor / "cut", "--every", "20", "--states", "4") == 0
    assert read_lineage(sensor / "cut").versions[3].data.rpartition("/")[2].startswith("120-140-")


def test_a_stream_that_ends_and_what_cannot_be_followed(sensor, capsys):
    (sensor / "update.yaml").write_text(
        f"stream: {{function: {NAME}.short, arguments: {{end: 50}}, every: 40}}\nsettings: [training.epochs=1]\n"
    )
    assert main(["--state", str(sensor / "state"), "--config", str(sensor / "update.yaml"), *SETTINGS[:-1]]) == 0
    assert "has ended after 50 samples, of which the last 10 make no state of 40" in capsys.readouterr().out
    assert len(read_lineage(sensor / "state").versions) == 1
    assert follow(sensor / "state", "--every", "40") == 1
    assert f"are of a stream with the function {NAME}.short, got {NAME}.endless" in capsys.readouterr().err
    for options, function, message in (
        (["--every", "1"], "endless", "the samples of a state (--every) must be at least 2, got 1"),
        ([], "endless", "a stream needs --every N, the samples of a state"),
        (["--every", "9"], "nothing", f"dataset.function={NAME}.nothing cannot be imported"),
        (["--every", "9"], "once", "is an iterator (generator), which gives its samples only once"),
        (["--every", "9"], "short", "raised TypeError"),
    ):
        assert follow(sensor / "other", *options, function=function) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert main(["--state", str(sensor / "other"), *SETTINGS]) == 1
    assert "say what is new: --data PATH, or --stream" in capsys.readouterr().err


@pytest.mark.full
def test_two_ranks_follow_a_stream(sensor):
    launcher = [*TORCHRUN, "--nproc-per-node=2", "-m", "drb.update", "--state", "state"]
    command = [*launcher, "--stream", f"{NAME}.endless", "--every", "40", "--states", "3", *SETTINGS]
    ended = Running(command, sensor).wait(240)  # the module is found in the current folder
    assert ended.code == 0, ended
    assert [version.environment["world_size"] for version in read_lineage(sensor / "state").versions] == [2, 2, 2]
