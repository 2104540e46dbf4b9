"""All ranks learn of a signal or a clock at the same step, and hardly ever talk about it."""

from __future__ import annotations

import os
import signal
import time

import pytest
from ranks import run_ranks

from drb.checkpoint import CheckpointSettings, StopSignals, check_signals
from drb.checkpoint.votes import Ballot, Vote


def agree(rank: int, world_size: int, sender: int, at: int) -> tuple[int, int, int]:
    """Steps of 1 ms; `sender` gets a signal at step `at`. The step at which a rank knows, the signal, the exchanges."""
    import torch.distributed as dist

    signals = StopSignals(["USR2"])
    with signals:
        ballot = Ballot(lambda: Vote(signals.received), dist.new_group(backend="gloo"), every_s=0.02)
        visits = 0
        for step in range(1, 2000):
            dist.barrier()  # stands for the gradients
            time.sleep(0.001)
            if step == at and rank == sender:
                os.kill(os.getpid(), signal.SIGUSR2)
            if step >= ballot.next_step:
                visits += 1
                if vote := ballot.visit(step):
                    return step, vote.signal, visits
    return -1, 0, 0


@pytest.mark.parametrize(("world_size", "sender"), [(2, 1), (3, 0)])
def test_all_ranks_stop_at_the_same_step(world_size, sender):
    results = run_ranks(agree, world_size, sender, 100)
    step, number, visits = results[0]
    assert results == [results[0]] * world_size
    assert number == signal.SIGUSR2
    assert 100 < step < 300
    assert visits < step / 2


def now(rank: int, world_size: int) -> list[Vote]:
    import torch.distributed as dist

    votes = [Vote(), Vote(save=rank == 0), Vote(signal=15 * rank)]
    ballot = Ballot(lambda: votes[0], dist.new_group(backend="gloo"))
    heard = []
    for step in range(1, 4):
        assert ballot.visit(step) == Vote() or step > 1  # an exchange is left under way
        heard.append(ballot.now())
        votes.pop(0)
    return heard


def test_between_tasks_the_answer_is_waited_for():
    assert run_ranks(now, 2) == [[Vote(), Vote(save=True), Vote(signal=15)]] * 2


def test_one_rank_agrees_with_itself_at_once_and_asks_rarely():
    vote = Vote()
    ballot = Ballot(lambda: vote, None, every_s=0.05)
    visits = 0
    for step in range(1, 20_000):
        if step >= ballot.next_step:
            visits += 1
            assert ballot.visit(step) == Vote()
    assert visits < 40
    vote = Vote(signal=10)
    assert ballot.visit(ballot.next_step) == vote


def test_the_pace_starts_anew_with_a_task():
    ballot = Ballot(Vote, None, every_s=10.0)
    for step in (1, 2, 10, 60):
        ballot.visit(step)
    assert ballot.next_step > 70
    ballot.restart(70)
    assert ballot.next_step == 71


def test_a_signal_passed_on_is_one_signal_but_a_later_one_ends(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with StopSignals(["USR2", "TERM"]) as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        clock[0] += 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGUSR2
        clock[0] += 5
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGTERM)
        assert end.value.code == 128 + signal.SIGTERM


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGUSR2)
    with StopSignals(["USR2"]):
        assert signal.getsignal(signal.SIGUSR2) is not before
    assert signal.getsignal(signal.SIGUSR2) is before


def test_unknown_signals_are_refused():
    check_signals(CheckpointSettings().signals)
    with pytest.raises(ValueError, match=r"among USR1, USR2, TERM, INT or HUP, got 'KILL'"):
        check_signals(["TERM", "KILL"])
