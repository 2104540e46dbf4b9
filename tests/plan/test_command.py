"""`drb plan` as users start it: calculated for thousands of ranks, measured on two, and told what is wrong."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys

import pytest
from programs import ROOT, TORCHRUN, Running

from drb.plan.command import main
from drb.plan.options import bytes_of, seconds_of
from drb.plan.probe import Measured

SIMULATE = ["--simulate", "--record", "150528", "experiment=none", "training.batch_size=56", "rehearsal.exemplars=7"]


def test_a_plan_for_thousands_of_ranks(tmp_path, capsys):
    file = tmp_path / "plan.json"
    network = ["--latency", "5us", "--bandwidth", "25GB/s"]
    assert main([*SIMULATE, "--step", "85ms", *network, "--json", str(file)]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert "b=56 r=7" in head
    assert "network 5e-06 s and 25 GB/s per node" in head
    assert [row.split()[0] for row in rows] == [str(2**i) for i in range(13)]
    told = json.loads(file.read_text())["forecasts"]
    assert [f["exchange"] for f in told] == ["loopback", "shared", "shared", "shared", *["hierarchical"] * 9]
    rounds = [f["round_s"] for f in told]
    assert rounds == sorted(rounds)
    assert told[0]["hidden"]
    assert told[-1]["nodes"] == 512
    assert [f["messages"] for f in told[:5]] == [0, 0, 0, 0, 3]  # ranks of a node meet in memory
    assert told[-1]["messages"] < 2000  # 1,533: with one partner per node; 12,285 without


def test_a_slow_network_is_not_hidden(tmp_path):
    def at_64(*network):
        file = tmp_path / "plan.json"
        assert main([*SIMULATE, "--step", "85ms", "--ranks", "64", *network, "--json", str(file)]) == 0
        (told,) = json.loads(file.read_text())["forecasts"]
        return told

    fast, slow = at_64("--bandwidth", "25GB"), at_64("--bandwidth", "50MB")
    assert fast["hidden"]
    assert not slow["hidden"]
    assert slow["most_hidden"] < 7
    assert slow["slowdown"] > fast["slowdown"]


def test_who_sits_at_a_terminal_is_asked_for_the_step(tmp_path):
    file, (user, terminal) = tmp_path / "plan.json", pty.openpty()
    command = [sys.executable, "-m", "drb.plan", *SIMULATE, "--ranks", "2", "--json", str(file)]
    running = subprocess.Popen(command, stdin=terminal, stdout=subprocess.DEVNULL, stderr=terminal, cwd=ROOT)
    try:
        os.close(terminal)
        asked = b""
        while not asked.endswith(b": "):
            assert select.select([user], [], [], 60)[0], f"asked nothing: {asked!r}"
            asked += os.read(user, 1000)
        assert b"time of a training step on 56 rows, without rehearsal (such as 85ms): " in asked
        os.write(user, b"80 ms\n")
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()
        os.close(user)
    (told,) = json.loads(file.read_text())["forecasts"]
    assert told["step_s"] == pytest.approx(0.08 * (56 + 7) / 56)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--simulate"],
            "drb plan --simulate needs --step, the time of a training step on b rows, such as --step 85ms",
        ),
        ([*SIMULATE, "--step", "soon"], "--step must be a time such as 85ms, 2us or 1.5s, got 'soon'"),
        ([*SIMULATE, "--step"], "argument --step: expected one argument; see drb plan --help"),
        (["--latency", "2us"], "--latency needs --simulate: without it this machine is measured"),
        ([*SIMULATE, "--bandwidth", "fast"], "--bandwidth must be an amount of bytes such as 150528, 1.5MiB or 12.5GB"),
        ([*SIMULATE, "--ranks", "2,0"], "--ranks must be a number from 1 to 65536, got '0'"),
        (["--fast"], "--fast is neither an option nor key=value; see drb plan --help"),
        (["training.batch_size=0"], "training.batch_size must be at least 1, got 0"),
        (
            [*SIMULATE, "--step", "1s", "--measured", "no.json"],
            "--measured no.json is no file that drb plan",
        ),
        ([*SIMULATE, "--step", "1s", "rehearsal.exchange=shared"], "exchange=shared needs all ranks on one node"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, line, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"drb: error: {line}")


def test_amounts():
    assert [seconds_of(text) for text in ("85ms", "2us", "1.5s", "0.1")] == pytest.approx([0.085, 2e-6, 1.5, 0.1])
    assert [bytes_of(text) for text in ("150528", "12.5GB/s", "1MiB")] == [150528, 12.5e9, 1 << 20]


def test_two_ranks_are_measured(tmp_path):
    command = [*TORCHRUN, "--nproc-per-node=2", "-m", "drb.plan", "--seconds", "1", "--json", "plan.json"]
    done = Running([*command, "experiment=digits", "rehearsal.exemplars=auto"], tmp_path).wait(100)
    assert done.code == 0, done.err
    assert "2 ranks on 1 node, exchange shared: rounds of 8 exemplars" in done.out
    assert "largest r" in done.out or "not even 1 exemplar" in done.out
    written = json.loads((tmp_path / "plan.json").read_text())
    measured = Measured.from_json(written["measured"])
    assert measured.to_json() | {"rounds": None} == written["measured"] | {"rounds": None}
    assert [r for r, *_ in measured.rounds] == [1, 2, 8]
    assert all(seconds > 0 and cpu > 0 for _, seconds, cpu in measured.rounds)
    assert measured.step is not None
    assert measured.step.at(8) > 0
    assert measured.machine.cpu.message_s > 0
    assert measured.machine.cpu.round_s > 0
    assert measured.machine.cpu.wait_s > 0
    (told,) = written["forecasts"]
    assert told["memory"]["rows"] == 100 * measured.row_bytes
    file = tmp_path / "plan.json"
    assert main([*SIMULATE, "--step", "1s", "--measured", str(file), "--ranks", "2", "--json", str(file)]) == 0


def test_a_file_of_another_version_is_refused(tmp_path, capsys):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"measured": {"ranks": 2, "machine": {"cores": 2}}}))
    assert main([*SIMULATE, "--step", "1s", "--measured", str(file)]) == 1
    assert (
        "it was written by another version of drb, whose model had other costs: probe again" in capsys.readouterr().err
    )


def test_one_rank_is_measured_with_a_given_step(tmp_path, capsys):
    file = tmp_path / "plan.json"
    assert main(["--seconds", "0.5", "--step", "20ms", "experiment=digits", "--json", str(file)]) == 0
    assert main([*SIMULATE, "--step", "1s", "--measured", str(file), "--ranks", "1"]) == 0
    assert main([*SIMULATE, "--step", "1s", "--measured", str(file), "--ranks", "1,8"]) == 1
    out, err = capsys.readouterr()
    assert "is of one rank, which sent nothing, so it does not tell what 8 ranks would take: probe on two" in err
    assert "1 rank, exchange loopback: rounds of 16 exemplars run on the training thread" in out
