"""`drb plan` as users start it: measured on two ranks and on one, and what is said of a wrong command line."""

from __future__ import annotations

import dataclasses
import json

import pytest
from programs import TORCHRUN, Running

from drb.plan.command import main
from drb.plan.measure import KINDS, Measurement
from drb.plan.report import describe

OVERLAPPED = Measurement(
    ranks=16,
    nodes=2,
    rows=56,
    exemplars=7,
    interval=1,
    exchange="hierarchical",
    inline=False,
    step_s={"smaller": 0.085, "plain": 0.0956, "rehearsal": 0.0966},
    cost=0.01,
    cost_quartiles=(0.008, 0.013),
    round_s=0.0012,
    wait_s=2e-5,
    bytes_per_rank=3 << 30,
)


def test_two_ranks_are_measured(tmp_path):
    settings = ["experiment=digits", "rehearsal.exemplars=auto", "rehearsal.asynchronous=true"]
    command = [*TORCHRUN, "--nproc-per-node=2", "-m", "drb.plan", "--seconds", "1", "--json", "plan.json", *settings]
    done = Running(command, tmp_path).wait(100)
    assert done.code == 0, done.err
    assert done.out.startswith("Rehearsal is ")
    assert "2 ranks on 1 node, exchange shared" in done.out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["rows"] == found["exemplars"] == 8  # at most as many as a minibatch has rows
    assert not found["inline"]
    assert set(found["step_s"]) == set(KINDS)
    assert all(seconds > 0 for seconds in found["step_s"].values())
    assert found["round_s"] > 0
    assert found["bytes_per_rank"] > 100 * 64  # a hundred images of 64 bytes, and more


def test_one_rank_is_measured(tmp_path, capsys):
    assert main(["--seconds", "0.2", "experiment=digits", "training.precision=bf16"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Rehearsal is not overlapped: its rounds are so short that they run on the training thread")
    assert "1 rank, exchange loopback" in out


def test_the_answer_comes_first():
    overlap, cost, *_ = describe(OVERLAPPED).splitlines()
    assert overlap == "Rehearsal is overlapped with training."
    assert cost == (
        "A step takes 96.6 ms with rehearsal and 95.6 ms with plain DDP on as many rows: +1.0% (half of the turns "
        "between +0.8% and +1.3%)."
    )
    assert "one round serves 4 steps" in describe(dataclasses.replace(OVERLAPPED, interval=4))
    assert "The machine was busy" not in describe(OVERLAPPED)
    assert "The machine was busy" in describe(dataclasses.replace(OVERLAPPED, cost_quartiles=(-0.02, 0.05)))
    late = dataclasses.replace(OVERLAPPED, wait_s=0.01)
    assert describe(late).startswith(
        "Rehearsal is NOT overlapped: training waits 10 ms of a step for the exemplars. Draw fewer "
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--seconds", "soon"], "argument --seconds: invalid float value: 'soon'; see drb plan --help"),
        (["--seconds", "0"], "--seconds must be above 0, got 0"),
        (["--json"], "argument --json: expected one argument; see drb plan --help"),
        (["--simulate"], "--simulate is neither an option nor key=value; see drb plan --help"),
        (["training.batch_size=0"], "training.batch_size must be at least 1, got 0"),
        (["rehearsal.exchange=rna"], "rehearsal.exchange"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, line, capsys):
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"drb: error: {line}")


def test_noise_in_place_of_an_experiments_data_needs_a_shape(capsys):
    assert main(["experiment=paper_imagenet_resnet50", "dataset=synthetic"]) == 1
    assert "say its shape, for example 'dataset.image_shape=[3,224,224]'" in capsys.readouterr().err
